"""Paragraphs into sentences, and how well a sentence can stand alone in a digest.

The rules are those that every splitter shares (a mark, white space, a new beginning) with three things
looked up per language: abbreviations, ordinal numbers, and the stop words, which tell whether the word
after an abbreviation begins a sentence ("at 5 p.m. Then ..."), as in Kiss & Strunk, "Unsupervised
Multilingual Sentence Boundary Detection" (Computational Linguistics 32, 2006), section 4.
"""

import re
from itertools import pairwise

from examples.digest_language import LANGUAGES, Language, words_of

__all__ = ["MIN_WORDS", "fitness", "split_sentences"]

_FULL_WIDTH = "\u3002\uff01\uff1f"  # the marks of Chinese and Japanese, which no space follows
_BOUNDARY = re.compile(rf"[.!?…]{{1,6}}[\"'”’»)\]]{{0,4}}\s+|[{_FULL_WIDTH}]\s*")
_TITLES = re.compile(r"dr|mr|mrs|ms|prof|st|hr|fr|sr|sra|m|mme|mlle|mgr|capt|gen|lt|gov|sen|rev|hon")
_IDENTIFIER = re.compile(r"\w*(?:[(_]|\w\.\w|\d|[a-z][A-Z])")
_ORDINAL_LANGUAGES = frozenset({"de"})  # "3. Oktober": the dot makes the number an ordinal

_NEAR = 60  # characters on either side that decide: a paragraph may be as long as a book

MIN_WORDS = 5
MAX_WORDS = 55
MAX_CHARACTERS = 600
_MIN_STOP_SHARE = 0.15
_ENDS = re.compile(r"[.!?…][\"'”’»)\]]*$")
_BEGINS = re.compile(r"[\"'“‘«„(\[¿¡]*(?:[^\W\d_]|\d)")
_NOTICE = re.compile(
    r"copyright\s*(?:\(c\)|©|\d{4})|©|all rights reserved|alle rechte vorbehalten|"
    r"distribution of this memo|for the internet community|bcp 78",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"\b(?:see (?:also|the|below|above|section|chapter|rfc|pep)|as follows|following|below|above|"
    r"for (?:example|instance|more|details)|e\.g\.|previous(?:ly)?|earlier|click|"
    r"(?:figure|fig\.|table|listing|chapter|section|abbildung|tabelle|kapitel) \d|"
    r"(?:changed|new|added) in version|deprecated since|"
    r"siehe|folgende[nrs]?|unten|oben|z\. ?b\.|zum beispiel|voir|ci-dessous|par exemple|véase|por ejemplo|"
    r"let['’]?s|let us|we['’]ll|we will|you['’]ll|(?-i:I))\b",
    re.IGNORECASE,
)
_CLIPPED = re.compile(r"[=<>→⇒|{}]|\s[-–—+]\s.*\s[-–—+]\s.*\s[-–—+]\s|;.*;|^[\"“«]\d+[\"”»]|\.\.\.")
_LEANING = re.compile(
    r"(?:this|that|these|those|it|its|he|she|they|such|however|but|and|or|so|also|then|thus|hence|"
    r"therefore|otherwise|else|instead|see|moreover|furthermore|additionally|similarly|likewise|note|yes|no|"
    r"here|there|if so|finally|first|second|next|again|in (?:this|that|these|those|addition|contrast|other|"
    r"the (?:former|latter|previous|next))|as (?:a result|such|above|before|with)|"
    r"for (?:this|that|these|example|instance)|because of this|on the other hand|"
    r"dies|diese[rsmn]?|das|es|er|sie|aber|und|oder|so|also|daher|deshalb|dabei|dadurch|damit|dazu|dann|"
    r"jedoch|außerdem|hierzu|hierbei|zudem|ferner|auch|dort|hier|"
    r"ce|cela|cette|ces|cet|il|elle|ils|elles|mais|et|donc|ainsi|puis|cependant|toutefois|"
    r"esto|esta|este|estos|estas|eso|pero|y|además|así|entonces|sin embargo)\b",
    re.IGNORECASE,
)


def split_sentences(paragraph: str, language: str) -> list[str]:
    """Return the sentences of one paragraph, each without white space around it, none empty.

    Args:
        language: A key of `LANGUAGES`; others are split by the marks alone.
    """
    known = LANGUAGES.get(language, Language(name=language, stop_words=frozenset()))
    ends = [
        match.end()
        for match in _BOUNDARY.finditer(paragraph)
        if _is_end(paragraph, match, known, ordinals=language in _ORDINAL_LANGUAGES)
    ]
    pieces = [paragraph[start:end].strip() for start, end in pairwise([0, *ends, len(paragraph)])]
    return [piece for piece in pieces if piece]


def _is_end(text: str, mark: re.Match[str], language: Language, *, ordinals: bool) -> bool:
    following = text[mark.end() : mark.end() + _NEAR].lstrip("\"'“‘«„([¿¡")
    if not following or mark.group()[0] in _FULL_WIDTH:
        return True
    next_word = re.split(r"[\s,;:!?]", following, maxsplit=1)[0].rstrip(".")
    if not _may_begin(next_word):
        return False
    if mark.group().strip() != ".":  # "?", "!", "..." and a dot inside quotes end what a capital follows
        return True
    before = text[max(0, mark.start() - _NEAR) : mark.start()]
    return _ends_with_dot(before, next_word, language, ordinals=ordinals)


def _may_begin(word: str) -> bool:
    first = word[:1]
    return first.isupper() or first.isdigit() or not first.isalpha() or bool(_IDENTIFIER.match(word))


def _ends_with_dot(before: str, next_word: str, language: Language, *, ordinals: bool) -> bool:
    word = re.split(r"[\s(\[\"'“„«/]", before)[-1]
    starter = next_word[:1].isupper() and next_word.lower() in language.stop_words
    if word.lower() in language.abbreviations:
        return starter and not _TITLES.fullmatch(word.lower())
    if re.fullmatch(r"[^\W\d_]|(?:\w\.-?)+\w", word):  # an initial, "U.S.", "J.-P."
        return starter
    if not word.isdigit():
        return True
    if not before[: -len(word)].strip():  # "1. Scope": the number of what follows
        return False
    return starter or not ordinals or len(word) > 2


def fitness(sentence: str, language: str) -> float:
    """Return how well a sentence reads out of its place: 0.0 never, 1.0 as well as any.

    Zero for what is no sentence (fragments, headings, lead-ins ending in a colon, rows of a table, strings
    of names), for one in capitals and for copyright lines; less than one for a sentence that leans on its
    neighbours or points elsewhere ("However, ...", "see below").
    """
    words = sentence.split() if len(sentence) <= MAX_CHARACTERS else []
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not _is_prose(sentence):
        return 0.0
    if _stop_share(sentence, language) < _MIN_STOP_SHARE:
        return 0.0
    value = 1.0
    if _LEANING.match(sentence.lstrip("(\"'“„«")):
        value *= 0.5
    if _ELSEWHERE.search(sentence):
        value *= 0.6
    if _CLIPPED.search(sentence):
        value *= 0.6
    if sentence.endswith("?") or sentence.startswith("("):
        value *= 0.5
    if len(words) > MAX_WORDS * 2 // 3:
        value *= 0.8
    return value


def _stop_share(sentence: str, language: str) -> float:
    known, words = LANGUAGES.get(language), words_of(sentence)
    return sum(word in known.stop_words for word in words) / len(words) if known and words else 1.0


def _is_prose(sentence: str) -> bool:
    if not _ENDS.search(sentence) or not _BEGINS.match(sentence) or _NOTICE.search(sentence):
        return False
    if sentence[0].islower() and not _IDENTIFIER.match(sentence.split(maxsplit=1)[0].rstrip(".,:")):
        return False
    letters = [character for character in sentence if character.isalpha()]
    if len(letters) < 0.7 * len(sentence.replace(" ", "")):
        return False
    if sum(letter.isupper() for letter in letters) > 0.4 * len(letters):
        return False
    opened, closed = sentence.count("("), sentence.count(")")
    return opened == closed and sentence.count("“") == sentence.count("”") and sentence.count('"') % 2 == 0
