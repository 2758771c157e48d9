from stableavatar.text import MAX_SHOWN, one_line


def test_what_a_decoder_says_becomes_one_harmless_line() -> None:
    assert one_line("bad\n  tag \x1b[31m\u202eexe") == "bad tag [31m exe"
    assert len(one_line("x" * 9999)) == MAX_SHOWN
