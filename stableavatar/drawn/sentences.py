"""Sentences by chance in several languages. The two splits share no template and no content word.

Words with p, b and m (the lips close) and with open vowels are frequent, so that there is much to see.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

TRAIN, HELD_OUT = "train", "held-out"
SPLITS = (TRAIN, HELD_OUT)


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """Templates with {slots}, and the words that fill them."""

    templates: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]


def _grammar(templates: str, **words: str) -> Grammar:
    """Templates one a line, words separated by commas."""
    lines = tuple(line.strip() for line in templates.strip().splitlines())
    return Grammar(
        templates=lines, words={slot: tuple(w.strip() for w in row.split(",")) for slot, row in words.items()}
    )


_ENGLISH = {
    TRAIN: _grammar(
        """
        {who} bought a {adj} {thing} at the {place}.
        My {who2} keeps the {thing} in the {place}.
        Put the {adj} {thing} beside the {adj} {thing}.
        Can you {verb} my {thing} before {when}?
        Please {verb} the {thing}, {who}.
        Oh, what a {adj} {place} that was!
        {who} and {who} will {verb} it {when}.
        We saw a {adj} {thing} on the way to the {place}.
        """,
        who="Pamela, Bob, Mama, Tom, Barbara, Papa, Emma, Abby, Paul, Maria, Ben, Amy",
        who2="brother, mother, boss, barber, uncle, partner",
        adj="big, purple, calm, happy, warm, smooth, marble, open, beautiful, simple, bumpy, small, modern",
        thing="apple, map, balloon, piano, box, lamp, camera, potato, bottle, paper boat, hammer, carpet, bamboo mat",
        place="market, park, farm, palace, bathroom, harbour, bakery, museum, opera",
        verb="move, paint, buy, open, bring, compare, remember, wrap, borrow",
        when="tomorrow, May, Monday, half past four, supper, autumn",
    ),
    HELD_OUT: _grammar(
        """
        The {animal} jumped over a {adj} {thing}.
        Nobody told {who} about those {adj} {things}.
        How many {things} did {who} hide under this {thing}?
        Every {time}, {who} drops {things} into our {thing}.
        Perhaps an {animal2} has eaten them all.
        Both {things} came from a {adj} village.
        """,
        who="Oliver, Beatrice, Mabel, Rob, Sophie, Humphrey, Naomi, Bart",
        adj="muddy, proud, broken, pale, humble, golden, plump, yellow",
        thing="pillow, table, umbrella, bucket, mirror, pan, wardrobe, pump",
        things="pumpkins, bombs, mushrooms, plums, rabbits, stamps, peppers, drums",
        animal="puma, lamb, baboon, bumblebee, hippopotamus, parrot",
        animal2="ape, elephant, otter, impala",
        time="morning, summer, birthday, afternoon",
    ),
}

_GERMAN = {
    TRAIN: _grammar(
        """
        {who} kauft heute {thing} im {place}.
        Am {when} fahren wir mit {who} nach {town}.
        Wo hast du {thing} hingelegt, {who}?
        Im {place} war es gestern sehr {adj}.
        Bitte bring mir {thing} und {thing}.
        Mein {who2} ist {adj}, aber auch {adj}.
        """,
        who="Mama, Papa, Barbara, Paul, Emma, Bernd, Pia, Amal, Opa",
        who2="Bruder, Nachbar, Maler, Apotheker, Partner",
        thing="einen Apfel, das Boot, eine Lampe, den Ball, viele Blumen, die Pumpe, einen Baum, das Papier, Bananen",
        place="Park, Markt, Bahnhof, Garten, Theater, Museum",
        town="Bremen, Passau, Hamburg, Bamberg, Mainz",
        when="Montag, Abend, Samstag, Mittag",
        adj="warm, bunt, ruhig, bequem, modern, prima, lange offen",
    ),
    HELD_OUT: _grammar(
        """
        Unter jedem {thing} schlafen {num} {animals}.
        Warum singt {who} immer von {animals}?
        {num} {animals} laufen durch ein {adj} Dorf.
        Dieser {thing} gehört wohl {who}.
        Niemand glaubt {who}, dass der {thing} {adj2} war.
        """,
        who="Philipp, Mathilde, Robert, Oma Berta, Sabine, Ambros",
        thing="Mantel, Pullover, Teppich, Apparat, Koffer, Hammer",
        animals="Bären, Lämmer, Papageien, Hummeln, Ameisen, Pumas",
        num="zwei, sieben, acht, drei",
        adj="kleines, armes, stummes, blaues",
        adj2="kaputt, braun, krumm, plump",
    ),
}

_SPANISH = {
    TRAIN: _grammar(
        """
        {who} compra {thing} en {place}.
        Mañana vamos con {who} a {place}.
        ¿Dónde está {thing}, {who}?
        Me gusta mucho {thing}, es muy {adj}.
        Mi {who2} trabaja en {place} por la tarde.
        """,
        who="Pablo, María, mamá, papá, Ana, Alberto, Bárbara, Pepe",
        who2="padre, hermano, amiga, abuela, primo",
        thing="una manzana, el mapa, la lámpara, un barco, el piano, la pelota, una bombilla, el pan, una bota",
        place="el mercado, la playa, el parque, Panamá, la ópera, el campo",
        adj="bonito, amable, moderno, simple, barato, bueno",
    ),
    HELD_OUT: _grammar(
        """
        Nadie sabe cómo {animal} subió al {thing}.
        Hay {num} {animals} debajo del {thing}.
        ¿Por qué {person} siempre habla de {animals}?
        Aquel {thing} tan {adj} era de {person}.
        """,
        person="Beatriz, Rubén, Amparo, Ramón, Nicolás, Ximena",
        animal="un mapache, la abeja, el búho, una paloma",
        animals="palomas, búfalos, hormigas, monos, lobos",
        num="ocho, siete, cien, pocos",
        thing="árbol, puente, armario, tambor, sombrero, banco",
        adj="blanco, pobre, amplio, largo",
    ),
}

_FRENCH = {
    TRAIN: _grammar(
        """
        {who} achète {thing} au {place}.
        Demain, {who} va au {place} avec {who}.
        Où est {thing}, {who}?
        Mon {who2} aime {thing}, c'est très {adj}.
        Il fait {adj} au {place} ce matin.
        """,
        who="Maman, Papa, Paul, Barbara, Emma, Pauline, Benoît, Amélie",
        who2="papi, boulanger, médecin, beau-père, patron",
        thing="une pomme, le bateau, la lampe, un ballon, le piano, du pain, une bouteille, la carte, un tapis",
        place="marché, parc, musée, bar, port, jardin",
        adj="beau, calme, bon, pratique, moderne",
    ),
    HELD_OUT: _grammar(
        """
        Personne ne croit que {animal} mange des {things}.
        Combien de {things} sont tombées dans cette {box}?
        Pourquoi {person} parle-t-il encore de {animal}?
        Chaque soir, {person} cache des {things} sous sa {box}.
        """,
        person="Philippe, Bérénice, Hubert, Pamphile, Sophie, Mathieu",
        animal="un papillon, l'ours brun, cette abeille, leur mouton",
        things="prunes, poupées, bombes, plumes, ombres",
        box="chambre, boîte, poche, baignoire",
    ),
}

_ITALIAN = {
    TRAIN: _grammar(
        """
        {who} compra {thing} al {place}.
        Domani andiamo con {who} al {place}.
        Dov'è {thing}, {who}?
        Mi piace molto {thing}, è {adj}.
        Il mio {who2} lavora al {place}.
        """,
        who="mamma, papà, Paola, Roberto, Barbara, Pippo, Anna, Marco",
        who2="babbo, amico, nonno, compagno, parrucchiere",
        thing="una mela, la mappa, la lampada, un pallone, il piano, la bambola, il pane, una barca, la pompa",
        place="mercato, parco, museo, bar, porto, lago",
        adj="bello, buono, moderno, semplice, ampio",
    ),
    HELD_OUT: _grammar(
        """
        Nessuno sa perché {animal} dorme sotto questo {thing}.
        Ci sono {num} {animals} dentro quel {thing}.
        Quando {person} canta, scappano tutte le {animals}.
        Ogni sera {person} parla ancora di {animal}.
        """,
        person="Beppe, Umberto, Palmira, Fabiana, Ambrogio, Sabrina",
        animal="una lumaca, il lupo, un rospo, la volpe",
        animals="api, colombe, capre, farfalle, pecore",
        num="otto, sette, cento, poche",
        thing="ombrello, tavolo, armadio, campo, ponte",
    ),
}

# By espeak's names of languages; its plain English is British.
GRAMMARS: Mapping[str, Mapping[str, Grammar]] = {
    "en-us": _ENGLISH,
    "en": _ENGLISH,
    "de": _GERMAN,
    "es": _SPANISH,
    "fr": _FRENCH,
    "it": _ITALIAN,
}
LANGUAGES = tuple(GRAMMARS)


def draw_sentence(rng: np.random.Generator, language: str, split: str) -> str:
    """A sentence by chance. `language` of LANGUAGES, `split` of SPLITS."""
    grammar = GRAMMARS[language][split]
    text = str(rng.choice(grammar.templates))
    while "{" in text:
        slot = text[text.index("{") + 1 : text.index("}")]
        text = text.replace(f"{{{slot}}}", str(rng.choice(grammar.words[slot])), 1)
    return text[0].upper() + text[1:]
