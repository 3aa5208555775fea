"""Words that decide whether two questions mean the same. English; what is not here decides nothing.

Not a dictionary: these are words of questions to a service or an assistant.
"""

from __future__ import annotations

__all__ = [
    "DATES",
    "FAILING",
    "KINDS",
    "NEGATIONS",
    "NUMBERS",
    "OPPOSITES",
    "PREFIXES",
    "STOP_WORDS",
    "UNITS",
]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STOP_WORDS = frozenset(
    _words("""
a an the is are was were be been being am do does did doing to of in on at for by with from as
it its this that these those i you he she we they me my your his her our their and or but if so
than then there here what which who whom whose when where why how can could should would will
shall may might must have has had having about into get any some much many most more very really
just also please tell give show explain describe know want need like good best way ways one
thing things people make use using used s t re ve ll d m i'm i'd i've i'll it's that's what's
how's where's who's hi hello hey thanks thank let us could
""")
)

NEGATIONS = frozenset(
    _words("""
not no never none without cannot cant wont dont doesnt isnt arent didnt wasnt werent shouldnt
wouldnt couldnt hasnt havent nobody nothing neither nor except excluding unless excluded
""")
)

# "It fails" says what "it does not work" says.
FAILING = frozenset(
    _words("""
unable fail fails failed failing broken declined decline refused rejected missing lost stuck
pending still wrong problem issue error blocked impossible trouble late delayed disappeared
vanished denied down free waive waived
""")
)

# Without "may", which is mostly a verb.
DATES = frozenset(
    _words("""
january february march april june july august september october november december jan feb mar
apr jun jul aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday
mon tue wed thu fri sat today tomorrow yesterday tonight
""")
)

_COUNT = _words("""
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
""")
_TENS = _words("thirty forty fifty sixty seventy eighty ninety")

NUMBERS = (
    # Not "one": "which one", "one of them".
    {word: str(number) for number, word in enumerate(_COUNT) if number != 1}
    | {word: str(10 * tens) for tens, word in enumerate(_TENS, 3)}
    | {"dozen": "12", "hundred": "100", "thousand": "1000"}
    | {"million": "1000000", "billion": "1000000000"}
)

UNITS = _words("""
am pm k m bn b kg g mg lb lbs oz km cm mm mi ft in hz khz mhz ghz kb mb gb tb h hr hrs min mins
s sec ms ml l x usd eur gbp c f p s y yr yrs d
""")

PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "de", "mis")

_OPPOSITES = """
on off|enable disable|enabled disabled|open close|opened closed|open closed|increase decrease
increase reduce|increase lower|raise lower|gain lose|gain loss|profit loss|buy sell
buying selling|bought sold|start stop|start end|start finish|begin end|add remove|insert remove
install uninstall|upload download|import export|create delete|create destroy|save delete
keep delete|before after|above below|over under|more less|most least|most fewest|more fewer
max min|maximum minimum|largest smallest|biggest smallest|large small|big small|bigger smaller
larger smaller|greater less|greater smaller|highest lowest|high low|higher lower|hot cold
hotter colder|warm cool|good bad|best worst|better worse|pros cons|advantage disadvantage
advantages disadvantages|benefit drawback|benefits drawbacks|benefits risks|strengths weaknesses
safe unsafe|safe dangerous|legal illegal|possible impossible|true false|yes no|male female
man woman|men women|boy girl|boys girls|husband wife|father mother|son daughter|brother sister
uncle aunt|king queen|north south|northern southern|east west|eastern western|left right
front back|up down|upper lower|top bottom|in out|inside outside|internal external|inner outer
indoor outdoor|public private|send receive|sent received|sender recipient|push pull|lock unlock
locked unlocked|freeze unfreeze|encrypt decrypt|encode decode|compress decompress|login logout
accept reject|accept decline|accepted rejected|accepted declined|approve reject|approve deny
approve decline|approved declined|approved denied|allow deny|allow block|allow forbid
allowed banned|allowed forbidden|block unblock|positive negative|win lose|won lost|love hate
like dislike|with without|include exclude|included excluded|including excluding|covered excluded
long short|longer shorter|longest shortest|early late|earlier later|earliest latest|first last
old new|older newer|oldest newest|old young|older younger|ascending descending|asc desc
read write|sync async|deposit withdraw|deposit withdrawal|deposits withdrawals|debit credit
lend borrow|lender borrower|weekday weekend|weekdays weekends|day night|morning evening|am pm
current previous|next previous|current former|today tomorrow|today yesterday|tomorrow yesterday
fast slow|faster slower|fastest slowest|cheap expensive|cheaper dearer|cheapest dearest
easy hard|easy difficult|always never|all none|everyone nobody|everything nothing
subscribe unsubscribe|follow unfollow|activate deactivate|activate cancel|arrive depart
arrive leave|arrival departure|arrivals departures|employer employee|cause prevent
virus bacteria|input output|client server|liquid solid|heat cool|winter summer|fat muscle
waive charge|waived charged|free paid|refund charge|single married|alive dead|born died
birth death|strong weak|stronger weaker|strength weakness|light dark|light heavy|lighter heavier
thick thin|wide narrow|deep shallow|full empty|rich poor|wet dry|clean dirty|loud quiet|near far
nearest farthest|nearest furthest|closest farthest|same different|simple complex|formal informal
major minor|majority minority|sunrise sunset|sell purchase|attach detach|connect disconnect
mute unmute|expand collapse|show hide|enter exit|enter leave|entrance exit|join leave|pass fail
success failure|remember forget|find lose|found lost|give take|lower higher|asset liability
assets liabilities|income expense|income expenses|supply demand|question answer|teacher student
doctor patient|buyer seller|tenant landlord|attack defend|offense defense|ally enemy|war peace
hire fire|hired fired|promote demote|upgrade downgrade|accelerate decelerate|expand shrink
grow shrink|rise fall|rising falling|rose fell|ascend descend|inhale exhale|freeze melt
cooler warmer|vegetarian meat|vegan meat|guilty innocent|temporary permanent|mandatory optional
required optional|manual automatic|manually automatically|online offline|hardware software
domestic international|domestic foreign|local foreign|local international|incoming outgoing
inbound outbound|savings checking|prepaid postpaid|retail wholesale|fixed variable
secured unsecured|sunny rainy|breakfast dinner|lunch dinner|breakfast lunch
"""

OPPOSITES: dict[str, set[str]] = {}
for _line in _OPPOSITES.strip().splitlines():
    for _pair in _line.split("|"):
        _one, _other = _pair.split()
        OPPOSITES.setdefault(_one, set()).add(_other)
        OPPOSITES.setdefault(_other, set()).add(_one)

_KINDS = """
basic standard premium gold platinum silver bronze diamond student|
savings checking brokerage mortgage loan|
visa mastercard amex discover|
euro euros dollar dollars pound pounds yen rupee rupees yuan franc francs peso pesos usd eur
gbp jpy cad aud|
english spanish french german italian portuguese russian chinese mandarin japanese korean
arabic hindi dutch swedish greek turkish polish thai vietnamese hebrew latin|
monday tuesday wednesday thursday friday saturday sunday|
january february march april may june july august september october november december|
daily weekly monthly yearly annual quarterly|
red blue green yellow black white orange purple pink brown grey|
ios android windows macos linux|
python java javascript typescript rust golang ruby php|
breakfast lunch dinner|
spring summer autumn winter|
celsius fahrenheit kelvin|
zelle wire ach sepa swift paypal
"""

KINDS = {word: row for row, line in enumerate(_KINDS.strip().split("|")) for word in line.split()}
"""Words of one number exclude each other where one stands in the place of the other."""
