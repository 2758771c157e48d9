"""Language tags as people write them (de, pt-BR, ger) and as media files carry them (deu, por)."""

# ISO 639-1 and its ISO 639-2/T; where the bibliographic code (ISO 639-2/B) differs, it follows.
_TWO_LETTERS = """
aa aar, ab abk, ae ave, af afr, ak aka, am amh, an arg, ar ara, as asm, av ava, ay aym, az aze, ba bak, be bel, bg bul,
bi bis, bm bam, bn ben, bo bod tib, br bre, bs bos, ca cat, ce che, ch cha, co cos, cr cre, cs ces cze, cu chu, cv chv,
cy cym wel, da dan, de deu ger, dv div, dz dzo, ee ewe, el ell gre, en eng, eo epo, es spa, et est, eu eus baq,
fa fas per, ff ful, fi fin, fj fij, fo fao, fr fra fre, fy fry, ga gle, gd gla, gl glg, gn grn, gu guj, gv glv, ha hau,
he heb, hi hin, ho hmo, hr hrv, ht hat, hu hun, hy hye arm, hz her, ia ina, id ind, ie ile, ig ibo, ii iii, ik ipk,
io ido, is isl ice, it ita, iu iku, ja jpn, jv jav, ka kat geo, kg kon, ki kik, kj kua, kk kaz, kl kal, km khm, kn kan,
ko kor, kr kau, ks kas, ku kur, kv kom, kw cor, ky kir, la lat, lb ltz, lg lug, li lim, ln lin, lo lao, lt lit, lu lub,
lv lav, mg mlg, mh mah, mi mri mao, mk mkd mac, ml mal, mn mon, mr mar, ms msa may, mt mlt, my mya bur, na nau, nb nob,
nd nde, ne nep, ng ndo, nl nld dut, nn nno, no nor, nr nbl, nv nav, ny nya, oc oci, oj oji, om orm, or ori, os oss,
pa pan, pi pli, pl pol, ps pus, pt por, qu que, rm roh, rn run, ro ron rum, ru rus, rw kin, sa san, sc srd, sd snd,
se sme, sg sag, sh hbs, si sin, sk slk slo, sl slv, sm smo, sn sna, so som, sq sqi alb, sr srp, ss ssw, st sot, su sun,
sv swe, sw swa, ta tam, te tel, tg tgk, th tha, ti tir, tk tuk, tl tgl, tn tsn, to ton, tr tur, ts tso, tt tat, tw twi,
ty tah, ug uig, uk ukr, ur urd, uz uzb, ve ven, vi vie, vo vol, wa wln, wo wol, xh xho, yi yid, yo yor, za zha,
zh zho chi, zu zul
"""
# Widely dubbed languages that have three letters only; the last two are ISO 639-3.
_THREE_LETTERS = """
arc ast bal ber bho ceb chr crh csb fil fur gsw haw hil hmn hsb dsb ilo kab kok lad lus mag mai mni nap nds new nso
pap raj sat scn sco smj smn sms syr tet tpi tyv udm vec wal war cmn yue
"""


def to_iso639_2(tag: str) -> str:
    """The three letters by which media files name a language: `de`, `ger`, `deu` and `de-AT` give `deu`.

    Of the two codes that ISO 639-2 has for some languages it is the terminological one, as mp4 wants it. Case does not
    matter, and what follows the first `-` or `_` (region, script) is left out. Raises ValueError: not a known language.
    """
    code = _CODES.get(tag.strip().replace("_", "-").split("-")[0].lower())
    if code is None:
        raise ValueError(f"{tag!r} is no known language. Name it by its ISO 639 code, such as en, de, pt-BR or yue.")
    return code


def _codes() -> dict[str, str]:
    """Every way of writing a language -> its ISO 639-2/T code."""
    groups = [group.split() for group in _TWO_LETTERS.split(",")]
    return {name: group[1] for group in groups for name in group} | {code: code for code in _THREE_LETTERS.split()}


_CODES = _codes()
