"""Which language a text is in, and the words and abbreviations of the languages a digest can be made of.

Detection is the small-words technique of Grefenstette, "Comparing two language identification schemes"
(JADT 1995): the language whose commonest function words cover most of the text wins. It needs no model,
gives the same answer everywhere, and says `unknown` where no list fits. The words are the common core of
the Snowball stop-word lists (snowballstem.org, BSD licence).
"""

import re
from collections import Counter
from dataclasses import dataclass

__all__ = ["LANGUAGES", "UNKNOWN", "Language", "detect_language", "words_of"]

UNKNOWN = "unknown"
_SAMPLE_WORDS = 5_000
_MIN_WORDS = 5  # fewer say nothing about a language
_MIN_SHARE = 0.1  # running text has 20 to 40 percent; bare lists and languages without a list stay below
_MIN_LEAD = 1.8  # to the second best; less is a relative without a list, as Catalan is of Spanish
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """What is known of a language; without abbreviations it is only recognised, not digested."""

    name: str
    stop_words: frozenset[str]
    abbreviations: frozenset[str] = frozenset()


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, numbers among them; an apostrophe stays inside its word."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def detect_language(text: str) -> str:
    """Return the code of the language of a text, a key of `LANGUAGES`, or `UNKNOWN`.

    The first 5,000 words decide; a close second makes the answer `UNKNOWN`.
    """
    words = words_of(text)[:_SAMPLE_WORDS]
    if len(words) < _MIN_WORDS:
        return UNKNOWN
    shares = sorted((_share(words, code), code) for code in LANGUAGES)
    (second, _), (best, code) = shares[-2:]
    return code if best >= max(_MIN_SHARE, _MIN_LEAD * second) else UNKNOWN


def _share(words: list[str], code: str) -> float:
    """Return how much of the words is function words of a language; one that several share counts in part."""
    stop_words = LANGUAGES[code].stop_words
    return sum(1 / _LANGUAGES_WITH[word] for word in words if word in stop_words) / len(words)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


LANGUAGES: dict[str, Language] = {
    "en": Language(
        name="English",
        stop_words=_set(
            """a about above after again against all also am an and any are as at be because been before being
            below between both but by can cannot could did do does doing down during each either else ever
            few for from further had has have having he her here hers herself him himself his how however i
            if in into is it its itself just may me might more most must my myself neither no nor not now
            of off on once only onto or other our ours out over own per same shall she should since so some
            such than that the their theirs them then there these they this those though through thus to
            too under until up upon us very was we were what when where whether which while who whom whose
            why will with within without would you your yours don't doesn't it's can't isn't"""
        ),
        abbreviations=_set(
            """al approx art assn ave bros cap capt cf ch chap co col corp dept dr e.g eg ed eds esq est etc
            eq ex ext fig figs gen gov hon i.e ie inc incl int jr lt ltd maj max min misc mr mrs ms mt n.b
            no nos op p para paras pp prof pt pts ref refs rep resp rev sec sect sects secs sen sgt sq sr
            st suppl tab univ viz vol vols vs a.m p.m u.s u.k u.n ph.d b.sc m.sc w.r.t a.k.a jan feb mar
            apr jun jul aug sep sept oct nov dec"""
        ),
    ),
    "de": Language(
        name="German",
        stop_words=_set(
            """ab aber alle allem allen aller alles als also am an andere anderen anderer anderes auch auf aus
            bei beim bin bis bist da dadurch daher damit dann daran darauf das dass dazu dein dem den denn
            der deren des dessen deshalb die dies diese diesem diesen dieser dieses doch dort du durch ein
            eine einem einen einer eines er es etwas euch für gegen hat hatte hatten hier ihm ihn ihnen ihr
            ihre ihrem ihren ihrer im in indem ins ist ja jede jedem jeden jeder jedes jedoch kann kein
            keine keinen können man mehr mein mit muss müssen nach nicht nichts noch nun nur ob oder ohne
            sehr sein seine seinem seinen seiner seit sich sie sind so solche soll sollen sollte sondern
            sowie über um und uns unser unter vom von vor war waren was weil welche welcher wenn werden wer
            wie wieder wir wird wo wurde wurden während zu zum zur zwar zwischen"""
        ),
        abbreviations=_set(
            """abb abs abschn allg anm art aufl bd bearb betr bzgl bzw ca chr d.h dr dt ebd einschl etc evtl
            exkl fa ff fr frhr geb gegr gem ggf hr hrsg i.d.r inkl inc ing jh jhd jr kap kgl lt max min
            mind mio mrd nr o.ä o.g prof rd s sog st std str tab tel u.a u.ä u.u usw v.a verf vgl vs z.b
            z.t z zit zzgl jan feb mrz apr jun jul aug sep sept okt nov dez"""
        ),
    ),
    "fr": Language(
        name="French",
        stop_words=_set(
            """à afin ai ainsi alors après au aucun aussi autre autres aux avait avant avec avoir car ce ceci
            cela celle celles celui ces cet cette ceux chaque comme comment dans de depuis des dès donc
            dont du elle elles en encore entre est et étaient était étant été être eu eux fait il ils je
            jusque la le les leur leurs lors lorsque lui mais même mes moins mon ne ni nos notre nous on
            ont ou où par parce pas pendant peu peut plus plusieurs pour pourquoi puis quand que quel
            quelle quelques qui quoi sa sans se selon sera ses si son sont sous sur ta tandis te tous tout
            toute toutes très tu un une vers vos votre vous y c'est d'un d'une n'est qu'il qu'elle s'il
            l'on"""
        ),
        abbreviations=_set(
            """al art av bd boul cf ch chap col dr éd env etc ex fig hab inc j.-c janv févr juil m mgr mlle mm
            mme n.b no nos obs op p pp p.ex pl prof réf s.a sec sect sept oct nov déc st ste suiv t.v.a tél
            vol vs"""
        ),
    ),
    "es": Language(
        name="Spanish",
        stop_words=_set(
            """a al algo algunos ante antes aquel aquella así aun aunque bajo bien cada casi como con contra
            cual cuando cuyo de del desde donde dos durante e el él ella ellas ellos en entre era eran es
            esa esas ese eso esos esta está están estaba estas este esto estos fue fueron ha haber había
            han hasta hay la las le les lo los más me mi mientras mismo muy nada ni no nos nosotros nuestra
            nuestro o otra otras otro otros para pero poco por porque pues puede que qué quien se sea según
            ser será si sí sido sin sino sobre son su sus también tan tanto te tiene tienen todo todos tras
            un una uno unos usted y ya yo"""
        ),
        abbreviations=_set(
            """a.c aprox art arts av avda cap cía col d dr dra d.c ed ee.uu ej etc excmo fig gral inc ing lic
            ltda máx mín núm op p pág págs p.ej pp prof pte ref s.a sr sra sres srta sta sto tel ud uds vol
            vs"""
        ),
    ),
    "it": Language(
        name="Italian",
        stop_words=_set(
            """a ad agli ai al alla alle anche avere che chi ci come con contro da dagli dai dal dalla dalle
            degli dei del della delle dello di dopo dove e ed era essere fra gli ha hanno i il in io la le
            lo loro ma mentre nei nel nella nelle non o ogni per perché più prima può quando quella quello
            questa questi questo se sempre senza si sia sono sua sue sui sul sulla suo tra tutti tutto un
            una uno è"""
        ),
    ),
    "pt": Language(
        name="Portuguese",
        stop_words=_set(
            """a ainda ao aos às as até cada com como da das de depois do dos é e ela elas ele eles em entre
            era essa esse esta está este eu foi for foram há isso isto já lhe mais mas mesmo muito na não
            nas nem no nos nós num numa o onde os ou para pela pelas pelo pelos por porque pode qual quando
            que quem são se seja sem ser será seu seus só sobre sua suas também tem têm um uma você"""
        ),
    ),
    "nl": Language(
        name="Dutch",
        stop_words=_set(
            """aan al alle als altijd andere bij daar dan dat de den der deze die dit door dus een en er geen
            haar had hebben heeft hem het hier hij hoe hun ik in is ja je kan kunnen maar meer men met mijn
            moet na naar niet nog nu of om omdat onder ons ook op over te tegen toch tot u uit uw van veel
            voor waar wanneer waren was wat we wel werd wie wij wordt worden zal ze zich zij zijn zo zonder
            zou"""
        ),
    ),
    "sv": Language(
        name="Swedish",
        stop_words=_set(
            """alla allt att av blev bli blir dem den denna deras dess dessa det detta dig din du där då efter
            ej eller en er ett från för ha hade han hans har henne hon honom hur här i icke ingen inom inte
            jag kan kunde man med mellan men mig min mot mycket ni nu när någon något några och om oss på
            samma sedan sig sin skulle som så till under upp ut utan var vara varit vi vid vilken är över"""
        ),
    ),
    "da": Language(
        name="Danish",
        stop_words=_set(
            """ad af alle alt anden at blev blive bliver da de dem den denne der deres det dette dig din dog
            du efter eller en end er et for fra få ham han hans har havde hende her hun hvad hvis hvor i
            ikke ind jeg jo kunne man mange med meget men mig min mod mødet ned noget nogle nu når og også
            om op os over på selv sig sin skal skulle som sådan til ud under var vi vil ville være været"""
        ),
    ),
    "pl": Language(
        name="Polish",
        stop_words=_set(
            """a aby albo ale ani bardzo bez będzie być był była było były co czy dla do gdy go i ich ile im
            inne ja jak jako jego jej jest jeszcze jeśli już każdy kiedy które którego której który których
            lub ma mają może można na nad nie nich niego od oraz po pod przed przez przy są się tak także
            tam te tego tej ten to tym tylko w we więc wszystko z za ze że"""
        ),
    ),
    "ru": Language(
        name="Russian",
        stop_words=_set(
            """а без более бы был была были было быть в вам вас весь во вот все всё вы где да для до его ее её
            если есть еще ещё же за и из или им их к как ко когда кто ли мне может мы на над не него нет но
            ну о об он она они оно от по под при с свой себя со так также такой там то того тоже только том
            ты у уже что чтобы эта эти это этого этой этот я"""
        ),
    ),
}

_LANGUAGES_WITH = Counter(word for language in LANGUAGES.values() for word in language.stop_words)
