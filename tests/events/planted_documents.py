"""A second corpus that judges the redactor: documents as agents meet them, with planted secrets and without.

Groups of templates are filled by a seeded generator: «h7» draws seven characters, «1..9» a number, «a|b» one of two
words, «svc» calls a maker, and «date/year» passes what is drawn through a filter; a text that begins with № becomes a
number. What a group gives is drawn first and stays the same in all its templates; what it gives in capitals is secret.
"""

import base64
import json
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any
from urllib.parse import quote

from tests.events.planted_secrets import Case, strings_in

_ALNUM = string.ascii_letters + string.digits
_LOWER = string.ascii_lowercase + string.digits
_ALPHABETS = {
    "w": _ALNUM, "l": _LOWER, "u": string.ascii_uppercase + string.digits, "a": string.ascii_letters,
    "c": string.ascii_lowercase, "C": string.ascii_uppercase, "d": string.digits, "z": string.digits[1:],
    "h": "0123456789abcdef", "H": "0123456789ABCDEF", "b": _ALNUM + "+/", "s": _ALNUM + "-_",
    "t": string.ascii_uppercase + "234567", "k": "0123456789ABCDEFGHJKMNPQRSTVWXYZ",
    "q": "qpzry9x8gf2tvdw0s3jn54khce6mua7l", "Q": "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
    "B": "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", "M": string.ascii_uppercase + ",;",
    "j": _LOWER + "!@#%^&*(-_=+)", "o": _ALNUM + "._", "y": _ALNUM + "-_.",
}  # fmt: skip
_LISTS = """
Marta Jonas Priya Wei Fatima Lukas Chloé Diego Aisha Tomasz Yuki Olivia Noah Ingrid Rafael Sofia Kwame Elena Hannah \
Mateusz Julia Ahmed Nina Oscar Leila Björn Camille Andrei Grace Victor
Kowalski Schneider Patel Zhang Okafor Müller Lefèvre Fernández Haddad Nowak Tanaka Smith Johansson Costa Rossi Mensah \
Petrova Weber Jansen Larsen Garcia Dubois Novák Silva Murphy Brown Kaya Ivanov Lindqvist Moreau
Northwind Brightleaf Halcyon Fernway Tidemark Quillon Marlowe Osprey Cobalt Larkspur Meridian Juniper Stonebridge \
Veloce Alderney Kestrel
orders billing checkout search gateway payments ingest reports catalog inventory notifier scheduler analytics users \
sessions pricing shipping webhooks audit exports
Copper Winter Falcon Maple Harbor Tiger Summer Rocket Garden Purple Coffee Dragon Autumn Silver Bicycle Lemon Monday \
Sunset Pepper Thunder Orchid Walrus Biscuit Glacier
212 310 415 617 305 713 206 303 404 512 602 718 773 858 919 971 646 408 925 503 416 604
"""
_FIRST, _LAST, _COMPANIES, _SERVICES, _NOUNS, _AREAS = (line.split() for line in _LISTS.strip().splitlines())
_PHONES = """
+1 («area») «office»-«line»; +1 «area»-«office»-«line»; +1«area»«office»«line»; +1-«area»-«office»-«line»;
+1 «area» «office» «line»; +44 7«4..9»«d2» «d6»; +44 20 7«d3» «d4»; +44 (0)20 7«d3» «d4»; +49 30 «n7»;
+49 17«0..9» «n7»; +49 (0) 89 «n6»; +33 6 «d2» «d2» «d2» «d2»; +33«1|6|7»«d8»; +34 6«d2» «d3» «d3»; +39 3«d2» «d7»;
+31 6 «n8»; +48 «5|6|7»«d2» «d3» «d3»; +55 11 9«d4»-«d4»; +91 9«d4» «d5»; +81 90-«d4»-«d4»; +86 138 «d4» «d4»;
+46 70 «d3» «d2» «d2»; +41 79 «d3» «d2» «d2»; +61 4«d2» «d3» «d3»; +353 8«3|5|6|7» «d3» «d4»;
+90 53«0..9» «d3» «d2» «d2»
"""
_E164 = """
+1«area»«office»«line»; +1«area»«office»«line»; +447«4..9»«d8»; +4917«0..9»«n7»; +336«d8»; +55119«d8»; +919«d9»;
+346«d8»; +486«d8»
"""
_US_PHONES = """
(«area») «office»-«line»; «area»-«office»-«line»; «area».«office».«line»; («area») «office»-«line»;
1-«area»-«office»-«line»; «area» «office» «line»
"""
_URL_LIST = """
postgresql://«user»:«PW»@«host»:5432/«svc» postgres://«user»:«PW»@«host»/«svc»?sslmode=require
mysql://«user»:«PW»@«host»:3306/«svc»
mongodb+srv://«user»:«PW»@cluster0.«account».mongodb.net/«svc»?retryWrites=true&w=majority
mongodb://«user»:«PW»@«host»:27017,«host»:27018/«svc»?replicaSet=rs0 redis://:«PW»@«host»:6379/0
rediss://default:«PW»@«host»:6380 amqp://«user»:«PW»@«host»:5672/%2F amqps://«user»:«PW»@«host»/«svc»
postgresql+asyncpg://«user»:«PW»@«host»/«svc» mysql+pymysql://«user»:«PW»@«host»/«svc»?charset=utf8mb4
mssql+pyodbc://«user»:«PW»@«host»/«svc»?driver=ODBC+Driver+18 clickhouse://«user»:«PW»@«host»:9000/«svc»
smtp://«user»:«PW»@«host»:587 ftp://«user»:«PW»@«host»/exports/ https://«user»:«PW»@«host»/«svc»/_search
nats://«user»:«PW»@«host»:4222 snowflake://«user»:«PW»@«account».eu-central-1/«svc»/PUBLIC
"""
_URLS = _URL_LIST.split()
# A vendor, the name of a variable, and the shape of a key; `|` is dropped, so that no prefix of a provider stands here.
_KEY_SHAPES = """
Stripe STRIPE_SECRET_KEY sk_|live_«w24»; Stripe STRIPE_API_KEY sk_|live_|51«w97»;
Stripe STRIPE_SECRET_KEY sk_|test_|51«w97»; Stripe STRIPE_RESTRICTED_KEY rk_|live_|51«w97»;
Stripe STRIPE_WEBHOOK_SECRET wh|sec_«w32»; GitHub GITHUB_TOKEN gh|p_«w36»; GitHub GH_TOKEN github|_pat_«w22»_«w59»;
GitHub GITHUB_TOKEN gh|s_«w36»; GitHub GH_OAUTH_TOKEN gh|o_«w36»; GitLab GITLAB_TOKEN gl|pat-«s20»;
Google GOOGLE_API_KEY AI|za|Sy«s33»; Google GOOGLE_MAPS_KEY AI|za|Sy«s33»;
Slack SLACK_BOT_TOKEN xo|xb-«z12»-«z13»-«w24»; Slack SLACK_USER_TOKEN xo|xp-«z12»-«z12»-«z13»-«h32»;
Slack SLACK_APP_TOKEN xa|pp-1-A0«u9»-«z13»-«h64»; OpenAI OPENAI_API_KEY sk-|proj-«s74»T3Blbk|FJ«s74»;
OpenAI OPENAI_API_KEY sk-«w20»T3Blbk|FJ«w20»; Anthropic ANTHROPIC_API_KEY sk-|ant-|api03-«s93»AA;
OpenRouter OPENROUTER_API_KEY sk-|or-v1-«h64»; SendGrid SENDGRID_API_KEY S|G.«s22».«s43»;
Mailgun MAILGUN_API_KEY ke|y-«h32»; npm NPM_TOKEN np|m_«w36»; PyPI PYPI_TOKEN py|pi-|AgEIcHlwaS5vcmcC«s150»;
DigitalOcean DIGITALOCEAN_TOKEN do|p_v1_«h64»; Hugging Face HF_TOKEN h|f_«a34»;
Shopify SHOPIFY_ACCESS_TOKEN shp|at_«h32»; Shopify SHOPIFY_API_SECRET shp|ss_«h32»;
Atlassian JIRA_API_TOKEN ATA|TT3xFfGF0«s171»=«H8»; Linear LINEAR_API_KEY lin|_api_«w40»;
Notion NOTION_TOKEN nt|n_«d11»«w35»; New Relic NEW_RELIC_API_KEY NR|AK-«u27»; Databricks DATABRICKS_TOKEN da|pi«h32»;
Vault VAULT_TOKEN hv|s.|CAESI«s90»; Airtable AIRTABLE_API_KEY pa|t«w14».«h64»; Figma FIGMA_TOKEN fi|gd_«s40»;
Telegram TELEGRAM_BOT_TOKEN «z10»:|AA«s33»; Postman POSTMAN_API_KEY PM|AK-«h24»-«h34»;
Grafana GRAFANA_TOKEN gl|sa_«w32»_«h8»; Supabase SUPABASE_ACCESS_TOKEN sb|p_«h40»;
Replicate REPLICATE_API_TOKEN r|8_«w37»; Groq GROQ_API_KEY gs|k_«w52»;
PlanetScale PLANETSCALE_TOKEN psc|ale_tkn_«s43»; Tailscale TS_AUTHKEY ts|key-auth-k«w11»CNTRL-«w32»;
RubyGems GEM_HOST_API_KEY ruby|gems_«h48»; Docker Hub DOCKERHUB_TOKEN dck|r_pat_«s27»;
Pulumi PULUMI_ACCESS_TOKEN pu|l-«h40»; HubSpot HUBSPOT_TOKEN pa|t-|eu1-«h8»-«h4»-«h4»-«h4»-«h12»;
Mailchimp MAILCHIMP_API_KEY «h32»-us|21; Brevo BREVO_API_KEY xke|ysib-«h64»-«w16»;
Resend RESEND_API_KEY r|e_«w8»_«w24»; Azure AZURE_CLIENT_SECRET «w3»8|Q~«y34»;
Pinecone PINECONE_API_KEY pc|sk_«w5»_«w63»; LangSmith LANGSMITH_API_KEY ls|v2_pt_«h32»_«h10»;
Netlify NETLIFY_AUTH_TOKEN nf|p_«w36»; Doppler DOPPLER_TOKEN d|p.pt.«w43»; Sentry SENTRY_AUTH_TOKEN sn|tryu_«h64»;
Square SQUARE_ACCESS_TOKEN EA|AAl«s59»; Perplexity PERPLEXITY_API_KEY pp|lx-«w48»; xAI XAI_API_KEY xa|i-«w80»;
Datadog DD_API_KEY «h32»; Datadog DATADOG_APP_KEY «h40»; Twilio TWILIO_AUTH_TOKEN «h32»;
Cloudflare CLOUDFLARE_API_TOKEN «s40»; Algolia ALGOLIA_ADMIN_API_KEY «h32»; Zendesk ZENDESK_API_TOKEN «w40»;
OpenWeather OPENWEATHER_API_KEY «h32»; Weights & Biases WANDB_API_KEY «h40»; Vercel VERCEL_TOKEN «w24»;
Deepgram DEEPGRAM_API_KEY «h40»; ElevenLabs ELEVENLABS_API_KEY «h32»; Okta OKTA_API_TOKEN 00«s40»;
internal API INTERNAL_API_KEY «w32»
"""
_KEYS = [row.strip().rsplit(maxsplit=2) for row in _KEY_SHAPES.replace("|", "").replace("\n", " ").split(";")]
_POPULAR_VENDORS = "Stripe, GitHub, OpenAI, Anthropic, Slack, Google, SendGrid, Shopify, npm, GitLab, Atlassian"
_POPULAR = [row for row in _KEYS if row[0] in _POPULAR_VENDORS.split(", ")]
_SYMBOLS = {
    "pw_file": "!@%*-_+=^", "pw_chat": "!@#%*-_+=", "pw_shell": "!@%*-_+=", "pw_form": "-_.~", "pw_ado": "!@%*-_+^",
}  # fmt: skip


def _ascii(text: str) -> str:
    return "".join(c for c in text.translate(str.maketrans("éèöüáñć", "eeouanc")) if c.isascii())


_FILTERS: dict[str, Callable[[str], str]] = {
    "lower": str.lower, "first": lambda text: text.split()[0],
    "head": lambda text: text.split("_")[0], "initial": lambda text: text[:1],
    "kebab": lambda text: text.lower().replace("_", "-"), "alnum": lambda text: "".join(c for c in text if c.isalnum()),
    "quoted": lambda text: quote(text, safe="@"), "bare": lambda text: text[1:], "ascii": _ascii,
    "escaped": lambda text: text.replace("\n", "\\n"), "added": lambda text: "+" + text.replace("\n", "\n+"),
    "by4": lambda text: "    " + text.replace("\n", "\n    "),
    "by6": lambda text: "      " + text.replace("\n", "\n      "), "count": lambda text: str(text.count("\n") + 1),
    "year": lambda text: text[:4], "folders": lambda text: text.replace("-", "/"), "mm": lambda text: text[:2],
    "yy": lambda text: text[-2:],
}  # fmt: skip
_DIRECTIVE = re.compile(r"«([^«»]*)»")


@dataclass(frozen=True)
class _Node:
    """A part of a template that a function makes of its filled arguments."""

    make: Callable[..., Any]
    arguments: tuple[Any, ...]


class _Filler:
    """Fills the templates of one case, in their order."""

    def __init__(self, rng: Random, index: int = 0, names: dict[str, Any] | None = None) -> None:
        self.rng = rng
        self.index = index
        self.names = names or {}

    def fill(self, template: Any) -> Any:
        match template:
            case str():
                if whole := _DIRECTIVE.fullmatch(template):
                    return self._draw(whole[1])
                text = _DIRECTIVE.sub(lambda match: str(self._draw(match[1])), template)
                return (float if {".", "e"} & set(text) else int)(text[1:]) if text.startswith("№") else text
            case dict():
                return {self.fill(key): self.fill(item) for key, item in template.items()}
            case list():
                return [self.fill(item) for item in template]
            case _Node():
                return template.make(self, *(self.fill(argument) for argument in template.arguments))
        return template

    def give(self, given: dict[str, Any]) -> None:
        """Draw what the names stand for; a list holds a template for each case."""
        for names, template in given.items():
            filled = self.fill(template[self.index % len(template)] if isinstance(template, list) else template)
            self.names.update(zip(names.split(), filled, strict=True) if " " in names else [(names, filled)])

    def _draw(self, directive: str) -> Any:
        name, equals, rest = directive.partition("=")
        if equals:
            self.names[name] = self._draw(rest)
            return self.names[name]
        if directive in self.names:
            return self.names[directive]
        if directive in _MAKERS:
            maker = _MAKERS[directive]
            return maker(self.rng) if callable(maker) else _drawn(self.rng, maker)
        if span := re.fullmatch(r"(\d+)\.\.(\d+):?(\w*)", directive):
            return format(self.rng.randint(int(span[1]), int(span[2])), span[3])
        if "|" in directive:
            return self.rng.choice(directive.split("|"))
        source, slash, name = directive.rpartition("/")
        if slash:
            return _FILTERS[name](self._draw(source))
        return _chars(self.rng, directive[0], int(directive[1:]))


def _drawn(rng: Random, template: Any, **names: Any) -> Any:
    return _Filler(rng, names=names).fill(template)


def _node(make: Callable[..., Any]) -> Callable[..., _Node]:
    return lambda *arguments: _Node(make, arguments)


@_node
def _nth(filler: _Filler, *made: Any) -> Any:
    """The one for this case; unlike with a list, all are drawn."""
    return made[filler.index % len(made)]


@_node
def _pick(filler: _Filler, *made: Any) -> Any:
    return filler.rng.choice(made)


@_node
def _lines(_: _Filler, *parts: str) -> str:
    return "\n".join(parts)


@_node
def _json(_: _Filler, value: Any, indent: int | str | None = 2) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False)


@_node
def _base64(_: _Filler, text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@_node
def _url_json(_: _Filler, value: Any) -> str:
    return _url_text(value)


@_node
def _shown(filler: _Filler, text: Any, command: str = "") -> Any:
    """The text as an agent would meet it: bare, or in the result of a tool."""
    rng = filler.rng
    match rng.randrange(8):
        case 3:
            return {"content": [{"type": "text", "text": text}], "isError": False}
        case 4:
            command = command or "cat " + rng.choice(["notes.txt", "out.log", "config"])
            return {"command": command, "stdout": text, "stderr": "", "exit_code": 0}
        case 5:
            return {"type": "tool_result", "tool_use_id": _drawn(rng, "toolu_01«w22»"), "content": text}
        case 6:
            path = command.split()[-1] if command else _drawn(rng, "/workspace/«svc»/notes.txt")
            return {"path": path, "content": text, "truncated": False}
        case 7:
            said = rng.choice(["Let me check.", "Reading the file now.", "Here is the output:"])
            return [{"role": "assistant", "content": said}, {"role": "tool", "content": text}]
    return text


@_node
def _said(filler: _Filler, text: str) -> Any:
    """The text as the message of a person."""
    rng = filler.rng
    match rng.randrange(6):
        case 2:
            return {"role": "user", "content": text}
        case 3:
            sent = {"type": "message", "channel": "C0«u9»", "user": "U0«u9»", "text": "«text»", "ts": "«epoch».«d6»"}
            return _drawn(rng, sent, text=text)
        case 4:
            note = {"id": "№«id13»", "type": "Comment", "body": "«text»", "public": True, "created_at": "«iso»"}
            return _drawn(rng, note, text=text)
        case 5:
            content = [{"type": "text", "text": text}]
            return [{"role": "assistant", "content": "How can I help?"}, {"role": "user", "content": content}]
    return text


def _chars(rng: Random, alphabet: str, count: int) -> str:
    """Characters of an alphabet; `n` are digits without a leading zero."""
    if alphabet == "n":
        return _chars(rng, "z", 1) + _chars(rng, "d", count - 1)
    return "".join(rng.choice(_ALPHABETS[alphabet]) for _ in range(count))


def _uuid(rng: Random) -> str:
    raw = _chars(rng, "h", 32)
    return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-{rng.choice('89ab')}{raw[17:20]}-{raw[20:]}"


def _luhn_ok(digits: str) -> bool:
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits)))
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def _luhn_digit(digits: str) -> str:
    return next(d for d in string.digits if _luhn_ok(digits + d))


def _identifier(rng: Random, digits: int) -> str:
    """A number that is no valid card number."""
    while True:
        number = _chars(rng, "n", digits)
        if not _luhn_ok(number):
            return number


def _ean(rng: Random) -> str:
    while True:
        code = str(_drawn(rng, "«40|42|76|50|87»«d10»"))
        code += str(-sum(int(d) * (3 if i % 2 else 1) for i, d in enumerate(code)) % 10)
        if not _luhn_ok(code):
            return code


def _imei(rng: Random) -> str:
    stem = "35" + _chars(rng, "d", 12)
    return stem + _luhn_digit(stem)


def _card(rng: Random, style: str = "") -> str:
    amex = rng.random() < 0.15
    digits: str = _drawn(rng, "«34|37»«d12»" if amex else "«4|4|4|51|52|53|54|55|2221|2720|6011|65|3530»")
    digits += _chars(rng, "d", 0 if amex else 15 - len(digits))
    digits += _luhn_digit(digits)
    separator = {"plain": "", "space": " ", "dash": "-"}[style or rng.choice(["plain", "space", "space", "dash"])]
    groups = [digits[:4], digits[4:10], digits[10:]] if amex else [digits[i : i + 4] for i in range(0, 16, 4)]
    return separator.join(groups)


def _password(rng: Random, symbols: str = "!@#%*-_+=?^", style: int | None = None) -> str:
    """A password as generators and people really make them."""
    match rng.choice([0, 0, 0, 1, 1, 1, 2, 3, 4, 4]) if style is None else style:
        case 0:
            made = [rng.choice(_ALNUM + symbols + symbols) for _ in range(rng.randint(14, 24))]
            made[0], made[-1] = rng.choice(_ALNUM), rng.choice(_ALNUM)
            made[1:4] = [_chars(rng, alphabet, 1) for alphabet in ("c", "d", "C")]
            return "".join(made)
        case 1:
            noun = rng.choice(_NOUNS)
            stems = [noun, noun.replace("o", "0"), noun.replace("e", "3"), noun + rng.choice(_NOUNS), noun.lower()]
            made = [rng.choice(stems), _drawn(rng, _pick("«2017..2026»", "«10..999»", "_«10..99»"))]
            return "".join(made) + rng.choice(["!", "!", "", "#"] if "#" in symbols else ["!", ""])
        case 2:
            return "-".join(rng.choice(_NOUNS).lower() for _ in range(4)) + str(rng.randint(1, 99))
        case 3:
            return _chars(rng, "w", rng.choice([20, 24, 32]))
    return _chars(rng, "w", rng.randint(10, 16))


def _email(rng: Random) -> str:
    filler = _Filler(rng)
    filler.give({"first": "«first»", "last": "«last»"})
    shared = "«support|billing|info|sales|hr|it-ops|accounts.payable»"
    names = ["«first».«last»", "«first»«last»", "«first/initial»«last»", "«first»_«last»", "«first».«last»+«svc»"]
    name = filler.fill(_pick(*names, "«first»«70..99»", "«first»", "«last».«first/initial»", shared))
    public = ["gmail.com", "outlook.com", "yahoo.fr", "web.de", "proton.me", "icloud.com"]
    domain = filler.fill(_pick("«domain»", "«domain»", "«domain»", *public, "mail.«domain»", "qq.com"))
    address = f"{name}@{domain}"
    return address.title() if rng.random() < 0.04 else address


def _phone(rng: Random, forms: str) -> Any:
    filler = _Filler(rng)
    filler.give({"area": _pick(*_AREAS), "office": "«2..8»«2..9»«0|2|3|4|5|6|7|8»", "line": "«d4»"})
    return filler.fill(_pick(*(form.strip() for form in forms.split(";"))))


def _url_text(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")


def _jwt(rng: Random, claims: dict[str, Any] | None = None) -> str:
    header = {"alg": rng.choice(["HS256", "HS256", "RS256", "ES256"]), "typ": "JWT"}
    if header["alg"] != "HS256":
        header["kid"] = _chars(rng, "w", 20)
    issued = rng.randint(1690000000, 1765000000)
    body = {"sub": _drawn(rng, _pick("«uuid»", "«n8»", "auth0|«h24»")), "iat": issued, "exp": issued + 3600}
    issued_by = {"iss": "https://«org».eu.auth0.com/", "scope": "openid profile"}
    issued_to: dict[str, Any] = {"name": "«ascii_name»", "admin": True}
    body |= claims or _drawn(rng, _pick(issued_by, {"role": "authenticated", "aud": "«svc»"}, issued_to))
    signature = _chars(rng, "s", {"HS256": 43, "ES256": 86, "RS256": 342}[header["alg"]])
    return f"{_url_text(header)}.{_url_text(body)}.{signature}"


def _account_jwt(rng: Random) -> str:
    claims = {
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": "prod",
        "sub": "system:serviceaccount:prod:«svc»",
    }
    return _jwt(rng, _drawn(rng, claims))


def _bytes(rng: Random, size: int) -> str:
    return base64.b64encode(rng.randbytes(size)).decode()


def _pem(rng: Random, form: str = "") -> str:
    form = form or rng.choice(["RSA", "OPENSSH", "EC", "PKCS8", "PKCS8", "RSA"])
    rsa, openssh = rng.choice([1592, 1592, 3168]), rng.choice([352, 352, 2540])
    start, size = {
        "RSA": ("MIIEpAIBAAKCAQEA", rsa),
        "OPENSSH": ("b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZWQyNTUxOQAAAC", openssh),
        "EC": ("MHcCAQEEI", 164),
        "PKCS8": ("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC", 1624),
        "ENCRYPTED": ("MIIFHDBOBgkqhkiG9w0BBQ0wQTApBgkqhkiG9w0BBQwwHAQI", 1780),
    }[form]
    body, width = start + _chars(rng, "b", size - len(start) - 1) + "=", 70 if form == "OPENSSH" else 64
    lines = [body[i : i + width] for i in range(0, len(body), width)]
    if len(lines[-1]) < 20:
        lines[-1] = _chars(rng, "b", 31) + "="
    kind = ("" if form == "PKCS8" else f"{form} ") + "PRIVATE" + " KEY"
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----"])


def _truncated_pem(rng: Random) -> tuple[str, str]:
    """How many lines a key has, and its first lines."""
    lines = _pem(rng, "RSA").split("\n")
    return str(len(lines)), "\n".join(lines[: rng.randint(6, 12) + 1])


def _pgp_body(rng: Random) -> str:
    first: str = _drawn(rng, "lQ«b62»\n")
    return first + str(_drawn(rng, "«b64»\n" * rng.randint(12, 24) + "«b40»"))


def _service(rng: Random) -> Any:
    """A vendor, the name of a variable, and a key."""
    return _drawn(rng, rng.choice(_POPULAR if rng.random() < 0.6 else _KEYS))


def _three_keys(rng: Random) -> Any:
    """Three vendors and their keys."""
    rows = [rng.choice(_POPULAR) for _ in range(3)]
    return _drawn(rng, [row[0] for row in rows] + [row[2] for row in rows])


def _dotenv(rng: Random) -> tuple[str, str]:
    """A file of settings, and the keys in it."""
    services = [_service(rng) for _ in range(rng.randint(1, 3))]
    settings: str = _drawn(
        rng,
        "NODE_ENV=«production|development»\nPORT=«3000|8080|5000»\nLOG_LEVEL=«info|debug»\n"
        "APP_URL=https://app.«domain»\nAWS_REGION=«eu-west-1|us-east-1»\nS3_BUCKET=«org»-uploads-prod",
    )
    lines = settings.split("\n")
    lines += [rng.choice([f"{e}={k}", f'{e}="{k}"', f"{e}='{k}'", f"export {e}={k}"]) for _, e, k in services]
    rng.shuffle(lines)
    return "\n".join(["# local settings", *lines]), "\n".join(key for _, _, key in services)


def _http_dump(rng: Random) -> tuple[Any, str]:
    """A request with a key in a header, and the key."""
    _, _, key = _service(rng)
    names = "Authorization: Bearer |X-API-Key: |x-api-key: |PRIVATE-TOKEN: |Authorization: token |api-key: "
    header = rng.choice(names.split("|")) + key
    dump = _drawn(
        rng,
        "POST /v1/«svc» HTTP/1.1\nHost: api.«domain»\nUser-Agent: python-requests/2.32.3\nAccept: */*\n«header»\n"
        "Content-Type: application/json\nContent-Length: 57\n\n"
        '{"customer": "cus_«w14»", "amount": «100..9999»}',
        header=header,
    )
    if rng.random() >= 0.4:
        return _drawn(rng, _shown("«dump»"), dump=dump), key
    name, value = header.split(": ")
    request = {"method": "POST", "url": "https://api.«domain»/v1/«svc»", "headers": {"Accept": "application/json"}}
    dump = _drawn(rng, {"request": request, "response": {"status": 401}})
    dump["request"]["headers"][name] = value
    return dump, key


def _commits(rng: Random) -> Any:
    subjects = [
        "Fix token refresh race", "Bump axios from 1.6.8 to 1.7.2", "Remove password from log output",
        "Add API key rotation docs", "refactor: split tokenizer", "Merge branch 'main' into feature/sso",
        "chore: update lockfile", "Handle expired sessions",
    ]  # fmt: skip
    return _drawn(rng, "\n".join(f"«h7» {subject}" for subject in rng.sample(subjects, 6)))


def _database(rng: Random, which: int | None = None) -> tuple[str, str]:
    """The URL of a database, and the password in it."""
    password = _password(rng, "-_.~!*", rng.choice([0, 1, 3, 4]))
    if rng.random() < 0.15:
        password = quote(_password(rng, "!@#%*-_+=", 0), safe="")
    template = rng.choice(_URLS) if which is None else _URLS[which]
    filler = _Filler(rng)
    filler.give({"user": "«user»", "host": "«host»", "svc": "«svc»", "account": "«l5»"})
    filler.names["PW"] = password
    return str(filler.fill(template)), password


def _authority(rng: Random) -> Any:
    return _drawn(rng, _base64("-----BEGIN CERTIFICATE-----\nMIIC«b60»\n«b64»"))


# A maker is a function, or a template itself.
_MAKERS: dict[str, Any] = {
    "First": lambda rng: rng.choice(_FIRST), "Last": lambda rng: rng.choice(_LAST),
    "first": lambda rng: _ascii(rng.choice(_FIRST)).lower(), "last": lambda rng: _ascii(rng.choice(_LAST)).lower(),
    "name": "«First» «Last»", "ascii_name": lambda rng: _ascii(f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"),
    "company": lambda rng: rng.choice(_COMPANIES), "org": "«company/lower»", "svc": lambda rng: rng.choice(_SERVICES),
    "domain": "«org»«||-labs|hq|-group|mail|tech»«.com|.com|.io|.de|.co.uk|.fr|.net|.org|.com.br|.dev|.pl|.co.jp»",
    "ip": _pick("10.«0..255».«octets»", "172.«16..31».«octets»", "«11..222».«0..255».«octets»"),
    "octets": "«0..255».«1..254»",
    "host": _pick("«svc»-prod.c«l11».«us-east-1|eu-west-1|eu-central-1».rds.amazonaws.com", "«svc»-db.internal",
        "localhost", "127.0.0.1", "postgres", "db", "«ip»", "«svc»-pg-«1..9».«org».net",
        "ep-«cool|late|bold»-«sun|moon|frog»-«n8».us-east-2.aws.neon.tech"),
    "user": _pick("«svc»_app", "app", "admin", "svc_«svc»", "deploy", "«first»", "readonly", "«first/initial»«last»",
        "root"),
    "uuid": _uuid, "date": "202«3..5»-«1..12:02»-«1..28:02»", "time": "«0..23:02»:«0..59:02»:«0..59:02»",
    "iso": "«date»T«time»Z", "iso_ms": "«date»T«time».«0..999:03»Z", "epoch": "«1690000000..1765000000»",
    "ver": "«0..18».«0..40».«0..20»", "price": "«1..2400».«0..99:02»",
    "size": lambda rng: _chars(rng, "n", rng.randint(3, 9)).rjust(10),
    "order_number": lambda rng: _chars(rng, "n", rng.choice([6, 8, 10])),
    "unit": lambda rng: str(round(rng.uniform(-1, 1), 8)),
    **{f"id{size}": partial(_identifier, digits=size) for size in range(12, 17)}, "ean": _ean, "imei": _imei,
    **{f"bytes{size}": partial(_bytes, size=size) for size in (32, 48, 60, 64, 90)}, "pw": _password,
    **{name: partial(_password, symbols=symbols) for name, symbols in _SYMBOLS.items()},
    "pw_command": lambda rng: _password(rng, "%*-_+=^.", rng.choice([1, 3, 4])),
    "pw_short": partial(_password, style=4), "service": _service, "three_keys": _three_keys, "dotenv": _dotenv,
    "http_dump": _http_dump,
    "aws_id": lambda rng: rng.choice(["AK" + "IA", "AK" + "IA", "AS" + "IA"]) + _chars(rng, "t", 16),
    "aws_secret": "«w4»«b36»", "jwt": _jwt,
    "supabase_jwt": lambda rng: _jwt(rng, {"iss": "supabase", "ref": _chars(rng, "l", 20), "role": "service_role"}),
    "account_jwt": _account_jwt, "pem": _pem,
    **{f"pem:{form}": partial(_pem, form=form) for form in ("RSA", "OPENSSH", "EC", "ENCRYPTED")},
    "truncated_pem": _truncated_pem, "pgp_body": _pgp_body, "database": _database,
    **{f"database:{which}": partial(_database, which=which) for which in range(len(_URLS))}, "card": _card,
    **{f"card:{style}": partial(_card, style=style) for style in ("plain", "space", "dash")},
    "expiry": "«1..12:02»/«26..31»", "email": _email, "phone": partial(_phone, forms=_PHONES),
    "e164": partial(_phone, forms=_E164), "us_phone": partial(_phone, forms=_US_PHONES),
    "phone_de": _pick("0«30|89|40|221»/«n7»", "017«0..9» «n7»", "030 «n4» «n3»"),
    "phone_fr": "0«1|6|7|9» «d2» «d2» «d2» «d2»", "phone_es": "6«d2» «d3» «d3»", "phone_pt": "(11) 9«d4»-«d4»",
    "phone_uk": _pick("07«4..9»«d2» «d6»", "020 7«d3» «d4»"), "phone_it": "3«d2» «d3» «d4»",
    "phone_pl": "«5|6|7»«d2» «d3» «d3»", "phone_nl": "06-«n8»", "phone_ja": "090-«n4»-«n4»", "phone_zh": "13«0..9»«d8»",
    "tail": _pick(" Thanks!", " See «OPS|SEC|DOC»-«1..999».", " («date»)", " cc «First»"),
    "commits": _commits, "authority": _authority,
}  # fmt: skip


@dataclass(frozen=True)
class _Group:
    """What is drawn first, what is put around the template of a case, the templates, and how many cases there are."""

    given: dict[str, Any]
    frame: Any
    templates: list[Any]
    count: int = 0

    def made(self, rng: Random, index: int) -> tuple[Any, tuple[str, ...]]:
        filler = _Filler(rng, index)
        filler.give(self.given)
        filler.names["it"] = filler.fill(_nth(*self.templates))
        value = filler.fill(self.frame)
        text = "\n".join(strings_in(value))
        hidden = [str(drawn) for name, drawn in filler.names.items() if name.isupper()]
        parts = [part for lines in hidden for part in lines.split("\n") if part and not part.startswith("-----")]
        found = dict.fromkeys(part for part in parts if part in text)
        return value, tuple(part for part in found if not any(part in other and part != other for other in found))


_BARE = "«it»"
_SHOWN = _shown("«it»")
_SAID = _said("«it»")
_URL_NAMES = {
    "redis": "REDIS_URL", "rediss": "REDIS_URL", "amqp": "CELERY_BROKER_URL", "amqps": "RABBITMQ_URL",
    "smtp": "SMTP_URL", "ftp": "EXPORT_FTP_URL", "https": "ELASTICSEARCH_URL", "nats": "NATS_URL",
}  # fmt: skip
_PROSE = """
Our password policy asks for at least 12 characters with one digit and one symbol. Passwords expire after 180 days.
The secretary will send the minutes of the meeting by Thursday; key decisions are on page 2.
A tokenizer splits text into tokens; rare words become several tokens, so token counts differ between models.
For sales press 1, for support press 2, to hear these options again press the star key.
In bridge, the dealer gives each player 13 cards; the ace is high and the player on the left leads.
Mechanical keyboard, hot-swappable keys, 75% layout, PBT keycaps. Ships in 3-5 days.
Please never share your password or your API key with anyone, not even with our support team.
I forgot my password and the reset link has expired. Could you send a new one?
Das Passwort muss mindestens zwölf Zeichen lang sein und darf nicht dem Benutzernamen gleichen.
Le mot de passe doit contenir au moins une majuscule. Le jeton expire au bout d'une heure.
La contraseña se guarda cifrada; nadie del equipo puede verla.
A senha expira em 90 dias. Use o gerenciador de senhas da empresa.
パスワードは12文字以上で設定してください。トークンの有効期限は1時間です。
密码至少需要12个字符，API 密钥请保存在保险库中。
Пароль должен содержать не менее 12 символов, токен действует один час.
Hasło wygasa po 90 dniach, a klucz API należy trzymać w sejfie.
We should move the secrets to Vault, then rotate every key and revoke the old tokens. No secret may stay in the repo.
The private key never leaves the HSM; only the public key is given to partners.
Key takeaways: churn fell by 2.4 points, the token budget is fine, and the card conversion rate rose.
Access tokens last 15 minutes; refresh tokens 30 days. Both are opaque strings.
The key to good bread is patience: 500 g flour, 350 g water, 10 g salt, and 18 hours.
Password: what you type. Passphrase: what you should type instead.
Your card ending in 4821 will be charged on 1 May. You can change the card in settings.
Is the token supposed to be in the header or in the query string? The docs say Authorization: Bearer, but the example \
shows X-API-Key.
Bitte den Schlüssel für Raum 3.14 am Empfang abholen; die Zugangskarte gilt ab Montag.
Reminder: 2FA becomes mandatory on 15 March. Enrol your security key before then.
The passport control queue took 40 minutes; gate B22, seat 14C, boarding 09:35.
She plays the keys in a band called Secret Garden; tickets are 25 euros.
The login fails with "invalid credentials" although the password is right. Caps lock is off.
Basic authentication is deprecated; use OAuth 2.0 bearer tokens instead.
password managers compared: 1Password, Bitwarden, KeePassXC and Dashlane
Wie ändere ich mein Passwort? Unter Einstellungen > Sicherheit > Kennwort ändern.
The password is required to be unique across the last 5 changes.
token: in computational linguistics, an instance of a sequence of characters.
Secret Santa draw is on Friday, budget 15 EUR.
If the API key is wrong, the service answers 401 with code invalid_api_key.
""".strip().splitlines()  # noqa: RUF001
_MESSAGES = ["«prose»" if case % 3 == 0 else _said("«prose»") for case in range(len(_PROSE))]
_MESSAGES += [_said("«prose»«tail»")] * len(_PROSE)

_API_KEYS: dict[str, _Group] = {
    "key_each_vendor": _Group({"vendor env KEY": _KEYS}, _SHOWN, [_pick("«env»=«KEY»", 'export «env»="«KEY»"',
            "    «env»: «KEY»", '"«env»": "«KEY»",', '«env/lower» = "«KEY»"',
            "const «env/lower/head»Key = process.env.«env» || '«KEY»';",
            "Hi team, the new «vendor» key for prod is «KEY», please put it in the vault as «env».",
            "+  «env»: '«KEY»'",
            "docker run --rm -e «env»=«KEY» -e LOG_LEVEL=debug ghcr.io/«org»/«svc»:«ver»")], len(_KEYS)),
    "key_dotenv": _Group({"text KEYS": "«dotenv»"}, _shown("«it»", "cat .env"), ["«text»"], 9),
    "key_npmrc": _Group({"KEY": "np" "m_«w36»"}, _shown("«it»", "cat ~/.npmrc"), [
        "registry=https://registry.npmjs.org/\n@«org»:registry=https://npm.pkg.github.com\n"
            "//registry.npmjs.org/:_authToken=«KEY»\nalways-auth=true"], 3),
    "key_pypirc": _Group({"KEY": "py" "pi-AgEIcHlwaS5vcmcCJ«s150»"}, _shown("«it»", "cat ~/.pypirc"), [
        "[distutils]\nindex-servers =\n    pypi\n\n[pypi]\nusername = __token__\npassword = «KEY»"], 2),
    "key_curl_argument": _Group({"KEY": [_POPULAR[case * 3 % len(_POPULAR)][2] for case in range(8)],
            "command": _pick("curl -s https://api.stripe.com/v1/charges -u «KEY»: -d amount=«n4» -d currency=eur",
            "curl -sS -H 'Authorization: Bearer «KEY»' https://api.«domain»/v1/«svc»?limit=10 | jq '.data[].id'",
            "curl -X POST -H \"X-Api-Key: «KEY»\" -H 'Content-Type: application/json' -d '{\"dry_run\": true}' "
            "https://«svc».«domain»/jobs", 'gh api -H "Authorization: token «KEY»" /repos/«org»/«svc»/pulls',
            "git clone https://x-access-token:«KEY»@github.com/«org»/«svc».git /tmp/«svc»")}, _BARE, [
        _pick("«command»", {"command": "«command»", "timeout": 30000, "description": "Call the API"},
            {"name": "bash", "input": {"command": "«command»"}})], 8),
    "key_http_dump": _Group({"dump KEY": "«http_dump»"}, _BARE, ["«dump»"], 6),
    "key_chat": _Group({"vendor env KEY": "«service»"}, _SAID, [
        "here's the «vendor» key for staging: «KEY» — will rotate it on Monday",
        "Hey, I keep getting 401s from «vendor». I'm using «KEY» and the base URL from the docs. What am I doing "
            "wrong?",
        "can you set «env» to «KEY» in the Vercel project and redeploy?",
        "Hallo, mein API-Schlüssel funktioniert nicht mehr: «KEY». Bitte um Hilfe.",
        "Bonjour, voici ma clé API «vendor» : «KEY». Pouvez-vous vérifier qu'elle est active ?",
        "Hola, esta es la clave de API que estoy usando: «KEY» y me devuelve error 403.",
        "Oi, a chave da API é «KEY», pode testar aí?",
        "«vendor» の API キーは «KEY» です。テスト環境で使ってください。", "新的 API key 是 «KEY» ，旧的已经作废了",  # noqa: RUF001
        "oops I committed «KEY» to the repo, can you help me purge it from history?",
        "Use this token: `«KEY»` (scopes: repo, read:org)", "> what's the «vendor» token again?\n«KEY»\nthx!!"]),
    "key_diff": _Group({"vendor env KEY": "«service»",
            "file": "«config/settings.py|src/lib/client.ts|deploy/values.yaml|.github/workflows/ci.yml»"},
        _shown("«it»", "git diff HEAD~1"), [_lines("diff --git a/«file» b/«file»\nindex «h7»..«h7» 100644\n"
            "--- a/«file»\n+++ b/«file»\n@@ -12,7 +12,7 @@\n TIMEOUT = 30", _pick('-«env» = os.environ["«env»"]',
            "-  «env»: ${«env»}"), _pick('+«env» = "«KEY»"', "+  «env»: «KEY»"), " RETRIES = 3")], 6),
    "key_code": _Group({"vendor env KEY": "«service»"}, _shown("«it»", "cat src/client"), [
        'import requests\n\nAPI_KEY = "«KEY»"\n\ndef fetch(page):\n    r = requests.get("https://api.'
            '«vendor/first/lower».com/v1/items", headers={"Authorization": f"Bearer {API_KEY}"}, params={"page": '
            "page})\n    r.raise_for_status()\n    return r.json()",
        "import { Client } from '@«vendor/first/lower»/sdk';\n\nexport const client = new Client({\n"
            "  apiKey: '«KEY»',\n  timeout: 10_000,\n});",
        'package main\n\nconst apiKey = "«KEY»" // TODO move to vault\n\nfunc main() {\n\treq, _ := '
            'http.NewRequest("GET", baseURL, nil)\n\treq.Header.Set("Authorization", "Bearer "+apiKey)\n}',
        "# config/initializers/stripe.rb\nStripe.api_key = '«KEY»'\nStripe.max_network_retries = 2",
        'public class Client {\n    private static final String API_TOKEN = "«KEY»";\n    private final String '
            'baseUrl = "https://api.example.com";\n}',
        "<?php\nreturn [\n    '«vendor/first/lower»' => [\n        'secret' => env('«env»', '«KEY»'),\n    ],\n];",
        'client = OpenAI(api_key="«KEY»", max_retries=2)', 'var client = new «vendor/first»Client("«KEY»");']),
    "key_ci_log": _Group({"vendor env KEY": "«service»"}, _SHOWN, [_pick("##[group]Run npm run deploy\nnpm run "
            "deploy\nshell: /usr/bin/bash -e {0}\nenv:\n  NODE_VERSION: 20\n  «env»: «KEY»\n##[endgroup]\n"
            "> «svc»@«ver» deploy\n> node scripts/deploy.js\nDeployed «h7» in «8..90»s", "«iso» + echo 'using "
            "«env»=«KEY»'\n«iso» + ./deploy.sh --env prod\n«iso» Build #«100..9999» finished: SUCCESS")], 5),
    "key_trace": _Group({"vendor env KEY": "«service»"}, _SHOWN, [_pick("AxiosError: Request failed with status code "
            "401\n    at settle (/app/node_modules/axios/dist/node/axios.cjs:1967:12)\n    at "
            "IncomingMessage.handleStreamEnd (/app/node_modules/axios/dist/node/axios.cjs:3066:11) {\n"
            "  code: 'ERR_BAD_REQUEST',\n  config: {\n    timeout: 0,\n    headers: { Accept: 'application/json', "
            "Authorization: 'Bearer «KEY»', 'User-Agent': 'axios/1.7.2' },\n    url: 'https://api.«domain»/v2/«svc»'\n"
            "  }\n}", 'Traceback (most recent call last):\n  File "/srv/app/tasks.py", line «10..300», in '
            'sync\n    client = Client(token="«KEY»")\n  File "/srv/app/client.py", line 31, in __init__\n'
            "    self._check()\n«vendor/first/lower».AuthenticationError: invalid token")], 4),
    "key_stripe_webhook_result": _Group({"KEY": "wh" "sec_«w32»"}, _BARE, [
        {"id": "we_1«w23»", "object": "webhook_endpoint", "created": "№«epoch»",
            "enabled_events": ["charge.failed", "charge.succeeded"], "livemode": True, "secret": "«KEY»",
            "status": "enabled", "url": "https://«svc».«domain»/hooks/stripe"}], 2),
    "key_aws_create_access_key": _Group({"ID": "AK" "IA«t16»", "SECRET": "«aws_secret»", "svc": "«svc»",
            "iso": "«iso»"}, _BARE, [_pick({"AccessKey": {"UserName": "ci-«svc»", "AccessKeyId": "«ID»",
            "Status": "Active", "SecretAccessKey": "«SECRET»", "CreateDate": "«iso»"}}, {"stdout": _json(
            {"AccessKey": {"UserName": "ci-«svc»", "AccessKeyId": "«ID»", "Status": "Active",
            "SecretAccessKey": "«SECRET»", "CreateDate": "«iso»"}}, 4), "exit_code": 0})], 3),
    "key_aws_credentials_file": _Group({"ID": "«aws_id»", "SECRET": "«aws_secret»"}, _shown("«it»",
            "cat ~/.aws/credentials"), [
        "[default]\naws_access_key_id = «ID»\naws_secret_access_key = «SECRET»\nregion = eu-central-1",
        "export AWS_ACCESS_KEY_ID=«ID»\nexport AWS_SECRET_ACCESS_KEY=«SECRET»\nexport AWS_DEFAULT_REGION=us-west-2\n"
            "aws s3 sync ./dist s3://«org»-web",
        'provider "aws" {\n  region     = "us-east-1"\n  access_key = "«ID»"\n  secret_key = "«SECRET»"\n}',
        "spring:\n  cloud:\n    aws:\n      credentials:\n        access-key: «ID»\n        secret-key: «SECRET»",
        's3 = boto3.client(\n    "s3",\n    aws_access_key_id="«ID»",\n    aws_secret_access_key="«SECRET»",\n)']),
    "key_aws_sts": _Group({"ID": "AS" "IA«t16»", "SECRET": "«aws_secret»", "KEY": "IQoJb3JpZ2luX2VjE«b380»=="}, _BARE, [
        {"Credentials": {"AccessKeyId": "«ID»", "SecretAccessKey": "«SECRET»", "SessionToken": "«KEY»",
            "Expiration": "«iso»"}, "AssumedRoleUser": {"AssumedRoleId": "AROA«t17»:ci",
            "Arn": "arn:aws:sts::«n12»:assumed-role/deploy/ci"}}], 2),
    "key_azure_storage_keys": _Group({"KEY": "«bytes64»", "KEY2": "«bytes64»", "keys": _nth([
            {"creationTime": "«iso»", "keyName": "key1", "permissions": "FULL", "value": "«KEY»"},
            {"creationTime": "«iso»", "keyName": "key2", "permissions": "FULL", "value": "«KEY2»"}])}, _BARE, [
        "«keys»",
        {"command": "az storage account keys list -n «org»st -o json", "stdout": _json("«keys»"), "exit_code": 0}]),
    "key_gcloud_key_string": _Group({"KEY": "AI" "zaSy«s33»"}, _BARE, ["keyString: «KEY»",
        {"createTime": "«iso»", "displayName": "Maps browser key", "keyString": "«KEY»",
            "name": "projects/«n12»/locations/global/keys/«uuid»", "uid": "«uuid»"}]),
    "key_kubectl": _Group({"vendor env KEY": "«service»", "CODED": _base64("«KEY»"), "command": [
            "kubectl describe configmap", "kubectl exec pod -- env", "cat secret.yaml", "kubectl get secret -o yaml"]},
        _shown("«it»", "«command»"), [
        "Name:         «svc»-config\nNamespace:    prod\nLabels:       <none>\n\nData\n====\n«env»:\n----\n«KEY»\n"
            "LOG_LEVEL:\n----\ninfo",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/bin\nHOSTNAME=«svc»-«h9»-«l5»\nKUBERNETES_SERVICE_PORT=443\n"
            "«env»=«KEY»\nHOME=/root",
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: «svc»-secrets\ntype: Opaque\nstringData:\n  «env»: «KEY»",
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: «svc»-secrets\ntype: Opaque\ndata:\n"
            "  «env/kebab»: «CODED»"]),
    "key_config_files": _Group({"vendor env KEY": "«service»", "file": ["terraform.tfvars", "appsettings.json",
            "application.yml", "web.config", "application.properties", ".mcp.json"]}, _shown("«it»", "cat «file»"), [
        'environment     = "prod"\n«env/lower» = "«KEY»"\ninstance_count  = 3',
        _json({"Logging": {"LogLevel": {"Default": "Information"}}, "«vendor/alnum»": {"ApiKey": "«KEY»",
            "BaseUrl": "https://api.«domain»"}, "AllowedHosts": "*"}),
        "server:\n  port: 8080\n«vendor/alnum/lower»:\n  api-key: «KEY»\n  timeout: 5s",
        '<configuration>\n  <appSettings>\n    <add key="webpages:Version" value="3.0.0.0" />\n'
            '    <add key="«vendor/alnum»ApiKey" value="«KEY»" />\n  </appSettings>\n</configuration>',
        "«vendor/alnum/lower».api.key=«KEY»\n«vendor/alnum/lower».api.url=https://api.«domain»\n"
            "feature.checkout.enabled=true", _json({"mcpServers": {"«vendor/alnum/lower»": {"command": "npx",
            "args": ["-y", "@modelcontextprotocol/server-«vendor/alnum/lower»"], "env": {"«env»": "«KEY»"}}}})]),
    "key_url": _Group({"KEY": "AI" "zaSy«s33»", "KEY2": "«h32»"}, _pick("«it»", {"url": "«it»", "method": "GET"},
            _shown("«it»")), [
        "https://maps.googleapis.com/maps/api/geocode/json?address=Berlin&key=«KEY»",
        "https://api.openweathermap.org/data/2.5/weather?q=Lyon&appid=«KEY2»&units=metric",
        '<script async src="https://maps.googleapis.com/maps/api/js?key=«KEY»&callback=initMap"></script>',
        'GET /v1/«svc»?api_key=«KEY2»&page=2 HTTP/1.1" 200 «n4»',
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-1.5-pro:generateContent?key=«KEY»"]),
    "key_webhook_url": _Group({"KEY": ["«w24»", "«s68»"], "url": ["https://hooks.slack" ".com/services/T0«u9»/B0«u9»/"
            "«KEY»", "https://discord" ".com/api/webhooks/«n19»/«KEY»"]}, _BARE, [{"SLACK_WEBHOOK_URL": "«url»"},
        _said("post the release notes to «url» please"),
        "curl -X POST -H 'Content-type: application/json' --data '{\"text\":\"deploy ok\"}' «url»",
        _shown("  webhook_url: '«url»'")]),
    "key_telegram": _Group({"KEY": "«n10»:AA«s33»"}, _BARE, [
        "https://api.telegram.org/bot«KEY»/sendMessage?chat_id=-100«n10»",
        _shown('«iso» INFO httpx HTTP Request: POST https://api.telegram.org/bot«KEY»/getUpdates "HTTP/1.1 200 OK"')]),
    "key_ticket": _Group({"vendor env KEY": "«service»"}, _BARE, [{"key": "OPS-«10..4000»", "fields": {
            "summary": "Rotate «vendor» key",
            "description": "h3. Steps\n# log in\n# replace old key {{«KEY»}} in Vault\n# restart «svc»",
            "status": {"name": "To Do"}}}, {"number": "№«1..3000»", "title": "SDK returns 401",
            "body": "### Reproduction\n```js\nconst c = new Client({ key: '«KEY»' })\nawait c.list()\n```\n"
            "Expected 200, got 401.", "state": "open", "labels": [{"name": "bug"}]},
        {"ticket": {"id": "№«n6»", "subject": "API key not working", "description": "Hello,\n\nwe created a key "
            "yesterday and it is refused:\n\n«KEY»\n\nCan you check?\n\nThanks, «name»", "priority": "high"}}]),
    "key_csv": _Group({"one two three KEY KEY2 KEY3": "«three_keys»", "text": ["| Service | Key | Owner |\n"
            "|---|---|---|\n| «one» | `«KEY»` | «name» |\n| «two» | `«KEY2»` | «name» |\n| «three» | `«KEY3»` | "
            "«name» |",
            "service,env,key,created\n«one»,prod,«KEY»,«date»\n«two»,prod,«KEY2»,«date»\n«three»,prod,«KEY3»,«date»"]},
        _SHOWN, ["«text»"], 2),
    "key_browser_page": _Group({"vendor env KEY": "«service»"}, _BARE, [
        _shown("- heading \"API keys\" [level=1] [ref=e4]\n- text: Copy your key now. You won't be able to see it "
            'again.\n- textbox "Secret key" [ref=e17]: «KEY»\n- button "Copy" [ref=e18]'),
        _shown('<div class="token-row"><code id="new-oauth-token">«KEY»</code><button>Copy</button></div>'),
        {"tool": "browser_type", "arguments": {"ref": "e31", "element": "«vendor» API key field", "text": "«KEY»"}}]),
    "key_history": _Group({"vendor env KEY": "«service»"}, _shown("«it»", "history | tail -5"), [
        "  501  cd ~/work/«svc»\n  502  git pull\n  503  export «env»=«KEY»\n  504  npm run dev\n"
            "  505  docker compose up -d"], 2),
}  # fmt: skip
_CREDENTIALS: dict[str, _Group] = {
    "cred_netrc": _Group({"PW": "«pw_file»"}, _shown("«it»", "cat ~/.netrc"), [
        "machine api.«domain» login «user» password «PW»",
        "machine git.«domain»\n  login «user»\n  password «PW»\n\nmachine localhost\n  login anonymous",
        "default\nlogin «user»\npassword «PW»"]),
    "cred_docker_config": _Group({"CODED": _base64("«user»:«pw»"), "registry": _pick("https://index.docker.io/v1/",
            "registry.«domain»", "ghcr.io"), "config": {"auths": {"«registry»": {"auth": "«CODED»"}},
            "credsStore": "desktop"}}, _BARE, [_shown(_json("«config»", "\t"), "cat ~/.docker/config.json"), "«config»",
        _shown(_json("«config»"), "cat /root/.docker/config.json")]),
    "cred_basic_header": _Group({"CODED": _base64("«user»:«pw»")}, _BARE, [
        _shown("GET /rest/api/2/issue/OPS-«1..999» HTTP/1.1\nHost: jira.«domain»\nAuthorization: Basic «CODED»\n"
            "Accept: application/json"),
        {"url": "https://«svc».«domain»/api", "headers": {"Authorization": "Basic «CODED»"}},
        "curl -H 'Authorization: Basic «CODED»' http://«ip»:9200/_cat/indices",
        _shown("> authorization: Basic «CODED»\n> accept: */*\n< HTTP/1.1 403 Forbidden")]),
    "cred_login_args": _Group({"PW": "«pw»", "user": "«user»"}, _BARE, [{"username": "«user»", "password": "«PW»"},
        {"tool": "login", "arguments": {"url": "https://«domain»/login", "user": "«user»", "passwd": "«PW»",
            "remember": True}}, {"fields": [{"name": "Username", "type": "textbox", "ref": "e11", "value": "«user»"},
            {"name": "Password", "type": "textbox", "ref": "e12", "value": "«PW»"}]},
        {"element": "Password field", "ref": "e12", "text": "«PW»", "submit": True},
        {"action": "fill", "selector": "input[name=password]", "value": "«PW»"},
        {"method": "POST", "url": "https://«domain»/api/session", "body": _json({"login": "«user»", "password": "«PW»",
            "otp": None}, None)},
        "await page.fill('#password', '«PW»');\nawait page.click('button[type=submit]');",
        {"name": "create_user", "arguments": {"login": "«user»", "initial_password": "«PW»", "groups": ["ops"],
            "force_change": True}}]),
    "cred_chat": _Group({"PW": "«pw_chat»", "user": "«user»"}, _SAID, ["the wifi password at the office is «PW»",
        "my password is «PW» but it says wrong credentials", "login: «user»\npassword: «PW»\nlet me know if it works",
        "Das Passwort für den Testserver lautet «PW»",
        "Benutzer: «user», Passwort: «PW» – bitte nach dem ersten Login ändern.",  # noqa: RUF001
        "Mein Kennwort ist «PW», damit komme ich nicht mehr rein.",
        "Bonjour, mon mot de passe est «PW» mais la connexion échoue.", "Identifiant : «user»\nMot de passe : «PW»",
        "Hola, mi contraseña es «PW» y no puedo entrar en mi cuenta.", "usuario: «user» contraseña: «PW»",
        "Oi! A senha do servidor é «PW»", "La password del database è «PW», non cambiarla per favore.",
        "Hasło do panelu: «PW»", "Het wachtwoord is «PW», gebruiker «user».", "テスト環境のパスワードは «PW» です。",
        "数据库密码是 «PW»，用户名 «user»", "логин: «user»\nпароль: «PW»", "비밀번호: «PW»", "Şifre: «PW»",  # noqa: RUF001
        "Hi, your account is ready. Username «user», temporary password «PW» — you'll be asked to change it at first "
            "login.",
        "pw for the zip: «PW»", "ssh «user»@«ip» pass «PW»", "creds for grafana -> «user» / «PW»",
        "It's «PW» — capital letters matter. That's the password for the admin panel."]),
    "cred_config_files": _Group({"PW": "«pw_file»", "user": "«user»", "file": [".env", "application.yml", "web.config",
            "terraform.tfvars", ".my.cnf", "redis.conf", ".pgpass", "tomcat-users.xml"]}, _shown("«it»", "cat «file»"),
        [
        "APP_ENV=production\nDB_HOST=«host»\nDB_PORT=5432\nDB_USERNAME=«user»\nDB_PASSWORD=«PW»\nCACHE_DRIVER=redis",
        "spring:\n  datasource:\n    url: jdbc:postgresql://«host»:5432/«svc»\n    username: «user»\n"
            "    password: «PW»\n  jpa:\n    hibernate:\n      ddl-auto: validate",
        '<configuration>\n  <appSettings>\n    <add key="SmtpUser" value="«user»" />\n    <add key="SmtpPassword" '
            'value="«PW»" />\n  </appSettings>\n</configuration>',
        'db_username = "«user»"\ndb_password = "«PW»"\ndb_instance_class = "db.t4g.medium"',
        '[client]\nuser=«user»\npassword="«PW»"\nhost=«host»',
        "bind 0.0.0.0\nport 6379\nrequirepass «PW»\nmaxmemory 2gb", "«host»:5432:«svc»:«user»:«PW»",
        '<tomcat-users>\n  <role rolename="manager-gui"/>\n  <user username="«user»" password="«PW»" '
            'roles="manager-gui"/>\n</tomcat-users>']),
    "cred_config_more": _Group({"PW": "«pw_file»", "user": "«user»", "file": ["wp-config.php", "settings.py",
            "appsettings.Production.json", "docker-compose.yml", "inventory.yml", "db.properties", "~/.m2/settings.xml",
            "odoo.conf"]}, _shown("«it»", "cat «file»"), [
        "<?php\ndefine( 'DB_NAME', '«svc»' );\ndefine( 'DB_USER', '«user»' );\ndefine( 'DB_PASSWORD', '«PW»' );\n"
            "define( 'DB_HOST', 'localhost' );",
        "DATABASES = {\n    'default': {\n        'ENGINE': 'django.db.backends.postgresql',\n"
            "        'NAME': '«svc»',\n        'USER': '«user»',\n        'PASSWORD': '«PW»',\n"
            "        'HOST': '«host»',\n    }\n}", _json({"Smtp": {"Host": "smtp.«domain»", "Port": 587,
            "UserName": "«user»", "Password": "«PW»", "EnableSsl": True}}),
        "services:\n  db:\n    image: postgres:16\n    environment:\n      POSTGRES_USER: «user»\n"
            "      POSTGRES_PASSWORD: «PW»\n      POSTGRES_DB: «svc»",
        "all:\n  hosts:\n    «ip»:\n      ansible_user: «user»\n      ansible_password: «PW»\n"
            "      ansible_become: true",
        "jdbc.url=jdbc:oracle:thin:@«host»:1521/ORCL\njdbc.username=«user»\njdbc.password=«PW»",
        "<server>\n  <id>«org»-releases</id>\n  <username>«user»</username>\n  <password>«PW»</password>\n</server>",
        "[database]\nhost = «host»\nuser = «user»\npasswd = «PW»\npool_size = 10"]),
    "cred_app_secret": _Group({}, _shown("«it»", "cat config"), ["production:\n  secret_key_base: «TOKEN=h128»",
        "DEBUG = False\nSECRET_KEY = 'django-insecure-«TOKEN2=j50»'\nALLOWED_HOSTS = ['*']",
        "RAILS_MASTER_KEY=«TOKEN3=h32»", "APP_NAME=Shop\nAPP_KEY=base64:«TOKEN4=bytes32»\nAPP_DEBUG=false"]),
    "cred_command": _Group({"PW": "«pw_command»", "user": "«user»", "host": "«host»"}, _pick("«it»",
            {"command": "«it»"}, {"tool": "bash", "args": {"cmd": "«it»", "cwd": "/srv"}}, _shown("$ «it»\nok")), [
        "mysql -h «host» -u «user» -p«PW» «svc» -e 'select count(*) from orders'",
        "PGPASSWORD=«PW» psql -h «host» -U «user» -d «svc» -c '\\dt'", "sshpass -p '«PW»' ssh «user»@«ip» uptime",
        "curl -u «user»:«PW» http://«ip»:8080/job/build/api/json", "docker login registry.«domain» -u «user» -p «PW»",
        "redis-cli -h «host» -a «PW» info memory", "sqlcmd -S «host» -U sa -P «PW» -Q 'select 1'",
        "echo '«user»:«PW»' | chpasswd",
        "mongosh --host «host» --username «user» --password «PW» --authenticationDatabase admin",
        "az login --service-principal -u «uuid» -p «PW» --tenant «uuid»"]),
    "cred_k8s_secret": _Group({"CODED": _base64("«pw»"), "secret": {"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "«svc»-db", "namespace": "prod", "uid": "«uuid»", "resourceVersion": "«n8»"},
            "type": "Opaque", "data": {"password": "«CODED»"}}}, _BARE, [
        "«secret»", _shown("apiVersion: v1\ndata:\n  password: «CODED»\nkind: Secret\nmetadata:\n"
            '  creationTimestamp: "«iso»"\n  name: «svc»-db', "kubectl get secret -o yaml"),
        _shown(_json("«secret»", 4), "kubectl get secret -o json"), _shown("apiVersion: v1\nkind: Secret\nmetadata: "
            "{name: pg}\ndata:\n  POSTGRES_PASSWORD: «CODED»", "cat secret.yaml")]),
    "cred_bearer_opaque": _Group({"TOKEN": _nth("«w40»", "«s64»", "«h64»", "ya" "29.a0Af«s160»", "«uuid»")}, _BARE, [
        _pick(_shown("GET /api/«svc» HTTP/2\nhost: «domain»\nauthorization: Bearer «TOKEN»\naccept: application/json"),
            {"headers": {"Authorization": "Bearer «TOKEN»"}, "method": "GET"},
            "curl -H 'Authorization: Bearer «TOKEN»' https://«domain»/me")], 5),
    "cred_session_cookie": _Group({"TOKEN": _nth("«l32»", "«h64»", "«s120»", "s%3A«s32».«w43»", "«w26»"),
            "name": ["sessionid", "_session_id", "laravel_session", "connect.sid", "PHPSESSID"]}, _BARE, [
        _pick(_shown("Set-Cookie: «name»=«TOKEN»; Path=/; HttpOnly; Secure; SameSite=Lax"),
            _shown("GET /account HTTP/1.1\nHost: «domain»\nCookie: theme=dark; «name»=«TOKEN»; lang=de\n"),
            {"name": "«name»", "value": "«TOKEN»", "domain": "«domain»", "path": "/", "httpOnly": True,
            "secure": True})], 5),
    "cred_oauth_response": _Group({"TOKEN REFRESH": _nth(["ya" "29.a0Af«s180»", "1/" "/0«s98»"], ["«w64»", "«w64»"],
            ["«h40»", "«h40»"], ["«s90»", "«s60»"], ["00D«w12»!AQ«o90»", "5Aep861«w80»"]), "answer": {
            "access_token": "«TOKEN»", "token_type": "Bearer", "expires_in": 3599, "refresh_token": "«REFRESH»",
            "scope": "read write offline_access"}}, _BARE, [
        "«answer»", _shown(_json("«answer»", None)), {"status": 200, "body": _json("«answer»", None)}, "«answer»",
        _shown(_json("«answer»"))]),
    "cred_client_secret": _Group({"id": "«l20»", "SECRET": _pick("«w40»", "«s43»", "«h64»", "GO" "CSPX-«s28»")},
        _BARE, [{"installed": {"client_id": "«n12»-«l32».apps.googleusercontent.com", "project_id": "«svc»",
            "token_uri": "https://oauth2.googleapis.com/token", "client_secret": "«SECRET»"}},
        "grant_type=client_credentials&client_id=«id»&client_secret=«SECRET»&scope=orders.read",
        _shown("oauth2:\n  client-id: «id»\n  client-secret: «SECRET»\n  scope: openid,profile"),
        _shown("OIDC_CLIENT_ID=«id»\nOIDC_CLIENT_SECRET=«SECRET»")]),
    "cred_form_body": _Group({"PW": "«pw_form»"}, _BARE, ["grant_type=password&username=«user»&password=«PW»&scope=api",
        _shown("POST /login HTTP/1.1\nHost: «domain»\nContent-Type: application/x-www-form-urlencoded\n\n"
            "_method=post&user=«user»&pwd=«PW»&remember=1"), _shown('«ip» - - [12/Mar/2025:«time» +0000] "GET '
            '/login?user=«user»&password=«PW» HTTP/1.1" 302 0 "-" "Mozilla/5.0"'),
        {"form": {"j_username": "«user»", "j_password": "«PW»"}, "url": "https://«domain»/j_security_check"}]),
    "cred_log_line": _Group({"PW": "«pw_shell»"}, _SHOWN, [
        "«iso» DEBUG [http-nio-8080-exec-«1..9»] c.«org».auth.LoginController - login attempt user=«user» "
            "password=«PW» ip=«ip»",
        'Started POST "/users/sign_in" for «ip» at «date» «time» +0000\n  Parameters: {"user"=>{"login"=>"«user»", '
            '"password"=>"«PW»"}, "commit"=>"Log in"}',
        '{"level":"debug","ts":«epoch»,"msg":"connecting to ldap","bind_dn":"cn=«user»,dc=corp","bind_password":"«PW»'
            '"}',
        "[«date» «time»] production.ERROR: PDOException: PDO->__construct('mysql:host=«ip»;dbname=«svc»', '«user»', "
            "'«PW»')",
        "LoginRequest(username=«user», password=«PW», rememberMe=false)"]),
    "cred_secret_managers": _Group({"PW": "«pw_shell»", "user": "«user»"}, _BARE, [
        {"ARN": "arn:aws:secretsmanager:eu-west-1:«n12»:secret:prod/«svc»-«w6»", "Name": "prod/«svc»",
            "VersionId": "«uuid»", "SecretString": _json({"username": "«user»", "password": "«PW»",
            "engine": "postgres", "host": "«host»", "port": 5432}, None)},
        _shown("====== Data ======\nKey         Value\n---         -----\npassword    «PW»\nusername    «user»",
            "vault kv get secret/«svc»"), {"id": "«l26»", "title": "«svc»", "category": "LOGIN",
            "fields": [{"id": "username", "type": "STRING", "label": "username", "value": "«user»"},
            {"id": "password", "type": "CONCEALED", "purpose": "PASSWORD", "label": "password", "value": "«PW»"}]},
        {"Parameter": {"Name": "/prod/«svc»/db_password", "Type": "SecureString", "Value": "«PW»", "Version": 3,
            "LastModifiedDate": "«iso»"}}]),
    "cred_sql": _Group({"PW": "«pw_shell»", "user": "«user»"}, _pick("«it»", {"query": "«it»", "database": "«svc»"}), [
        "CREATE ROLE «user» LOGIN PASSWORD '«PW»';\nGRANT SELECT ON ALL TABLES IN SCHEMA public TO «user»;",
        "ALTER USER '«user»'@'%' IDENTIFIED BY '«PW»';", "CREATE LOGIN «user» WITH PASSWORD = '«PW»';"]),
    "cred_kubeconfig": _Group({"TOKEN": _nth("«s54»", "«w43»")}, _shown("«it»", "cat ~/.kube/config"), [
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    server: https://«ip»:6443\n  name: prod\n"
            "users:\n- name: admin\n  user:\n    token: «TOKEN»\ncontexts:\n- context: {cluster: prod, user: "
            "admin}\n  name: prod"], 2),
    "cred_tables": _Group({"PW": "«pw_shell»", "PW2": "«pw_shell»", "PW3": "«pw_shell»", "user1": "«user»",
            "user2": "«user»", "user3": "«user»"}, _SHOWN, [
        "username,password,role\n«user1»,«PW»,admin\n«user2»,«PW2»,admin\n«user3»,«PW3»,admin",
        "| Host | User | Password |\n|------|------|----------|\n| «ip» | «user1» | «PW» |\n"
            "| «ip» | «user2» | «PW2» |\n| «ip» | «user3» | «PW3» |",
        "Host\tUser\tPass\n«ip»\t«user1»\t«PW»\n«ip»\t«user2»\t«PW2»\n«ip»\t«user3»\t«PW3»"]),
    "cred_code": _Group({"PW": "«pw_shell»"}, _SHOWN, [
        "const transporter = nodemailer.createTransport({\n  host: 'smtp.«domain»',\n  port: 465,\n"
            "  auth: { user: '«user»', pass: '«PW»' },\n});",
        'conn = psycopg2.connect(host="«host»", user="«user»", password="«PW»", dbname="«svc»")',
        '-  password: "«PW»"\n+  password: ${DB_PASSWORD}']),
    "cred_totp": _Group({"TOKEN": "«t32»", "company": "«company»"}, _BARE, [
        "otpauth://totp/«company»:«user»?secret=«TOKEN»&issuer=«company»",
        _shown("MFA seed for the shared «company» account\nTOTP secret: «TOKEN»\nPeriod 30s, 6 digits")]),
}  # fmt: skip
_PRIVATE_KEYS: dict[str, _Group] = {
    "pk_file_read": _Group({"PEM": ["«pem:OPENSSH»", "«pem:RSA»", "«pem:EC»", "«pem»", "«pem:OPENSSH»", "«pem:RSA»",
            "«pem:ENCRYPTED»", "«pem»"], "file": ["~/.ssh/id_ed25519", "~/.ssh/id_rsa", "ec.pem", "server.key",
            "deploy_key", "jwtRS256.key", "enc.pem", "tls.key"]}, _shown("«it»", "cat «file»"), ["«PEM»\n"], 8),
    "pk_gcp_service_account": _Group({"PEM": "«pem»", "svc": "«svc»", "account": {"type": "service_account",
            "project_id": "«svc»-prod-«n6»", "private_key_id": "«h40»", "private_key": "«PEM»\n", "client_id": "«n21»",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth", "token_uri": "https://oauth2.googleapis.com/token",
            "universe_domain": "googleapis.com"}}, _BARE, [
        "«account»", _shown(_json("«account»"), "cat sa.json"),
        {"variables": [{"key": "GCP_SA_KEY", "value": _json("«account»", None), "masked": False}]}]),
    "pk_env_escaped": _Group({"PEM": ["«pem:RSA»", "«pem»", "«pem:EC»"]}, _shown("«it»", "cat .env"), [
        'GITHUB_APP_ID=«n6»\nGITHUB_APP_PRIVATE_KEY="«PEM/escaped»\\n"\nLOG_LEVEL=info',
        "FIREBASE_PROJECT_ID=«svc»\nFIREBASE_PRIVATE_KEY='«PEM/escaped»\\n'",
        '{"kid":"«w12»","key":"«PEM/escaped»"}']),
    "pk_chat": _Group({"PEM": "«pem»"}, _SAID, ["Here's the deploy key, add it to the runner:\n\n«PEM»\n\nthx",
        "I get \"Load key: invalid format\" with this file, what's wrong?\n```\n«PEM»\n```",
        "Voici la clé privée du serveur :\n«PEM»",
        "bitte diesen Schlüssel auf dem Bastion-Host hinterlegen\n\n«PEM»"]),
    "pk_indented_yaml": _Group({"PEM": "«pem»"}, _shown("«it»", "cat values.yaml"), [
        "apiVersion: v1\nkind: Secret\nstringData:\n  tls.key: |\n«PEM/by4»",
        "write_files:\n  - path: /etc/ssl/private/server.key\n    content: |\n«PEM/by6»",
        "sshKeys:\n  deploy: |\n«PEM/by4»\nreplicas: 2"]),
    "pk_base64_of_pem": _Group({"pem": ["«pem:RSA»", "«pem»", "«pem:EC»"], "CODED": _base64("«pem»\n")},
        _shown("«it»", "cat kubeconfig"), [
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\ndata:\n  tls.key: «CODED»",
        "users:\n- name: admin\n  user:\n    client-key-data: «CODED»", "SSH_PRIVATE_KEY_B64=«CODED»"]),
    "pk_command": _Group({"PEM": ["«pem:RSA»", "«pem:OPENSSH»", "«pem:OPENSSH»"]}, _pick({"command": "«it»"}, "«it»"), [
        "cat > /tmp/key.pem <<'EOF'\n«PEM»\nEOF\nchmod 600 /tmp/key.pem && ssh -i /tmp/key.pem ubuntu@«ip»",
        'echo "«PEM»" | ssh-add -', "printf '%s\\n' '«PEM»' > ~/.ssh/id_ed25519"]),
    "pk_diff": _Group({"PEM": "«pem»"}, _shown("«it»", "git show"), [
        "diff --git a/certs/dev.key b/certs/dev.key\nnew file mode 100644\nindex 0000000..«h7»\n--- /dev/null\n"
            "+++ b/certs/dev.key\n@@ -0,0 +1,«PEM/count» @@\n«PEM/added»"], 3),
    "pk_pgp": _Group({"BODY": "«pgp_body»"}, _shown("«it»", "gpg --export-secret-keys -a"), [
        "-----BEGIN PGP PRIVATE" " KEY BLOCK-----\n\n«BODY»\n=«b4»\n-----END PGP PRIVATE" " KEY BLOCK-----"], 2),
    "pk_wireguard": _Group({"TOKEN": "«bytes32»"}, _shown("«it»", "cat /etc/wireguard/wg0.conf"), [
        "[Interface]\nPrivateKey = «TOKEN»\nAddress = 10.8.0.«2..250»/24\nDNS = 1.1.1.1\n\n[Peer]\n"
            "PublicKey = «bytes32»\nAllowedIPs = 0.0.0.0/0\nEndpoint = «ip»:51820",
        "interface: wg0\n  public key: «bytes32»\n  private key: «TOKEN»\n  listening port: 51820",
        "vpn:\n  wireguard:\n    private_key: «TOKEN»\n    mtu: 1420"]),
    "pk_putty": _Group({"public": "\n«b64»" * 6, "BODY": "\n«b64»" * 14}, _shown("«it»", "type key.ppk"), [
        "PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none\nComment: rsa-key-20240311\nPublic-Lines: 6«public»\n"
            "Private-Lines: 14«BODY»\nPrivate-MAC: «h64»"], 2),
    "pk_truncated": _Group({"lines PEM": "«truncated_pem»"}, _BARE, [
        {"path": "/home/app/.ssh/id_rsa", "content": "«PEM»\n", "truncated": True, "total_lines": "№«lines»"},
        _shown("«PEM»\n... (output truncated)", "head id_rsa")]),
    "pk_tls_api": _Group({"PEM": ["«pem»", "«pem:RSA»"]}, _BARE, [{"lease_id": "", "data": {"certificate": "-----BEGIN "
            "CERTIFICATE-----\nMIID«b60»" + "\n«b64»" * 16 + "\n-----END CERTIFICATE-----", "private_key": "«PEM»",
            "private_key_type": "rsa", "serial_number": "«h2»:" * 19 + "«h2»"}},
        {"KeyPairId": "key-0«h16»", "KeyName": "«svc»", "KeyFingerprint": "«h2»:" * 19 + "«h2»",
            "KeyMaterial": "«PEM»"}]),
    "pk_other": _Group({"KEY": "«h64»", "KEY2": "«s43»", "KEY3": "AGE-SECRET" "-KEY-1«Q58»"}, _BARE, [
        _shown("RPC_URL=https://eth.«domain»\nDEPLOYER_PRIVATE_KEY=0x«KEY»\nCHAIN_ID=1", "cat .env"),
        {"kty": "EC", "crv": "P-256", "kid": "«w10»", "x": "«s43»", "y": "«s43»", "d": "«KEY2»"},
        _shown("# created: «iso»\n# public key: age1«q58»\n«KEY3»", "cat keys.txt")]),
}  # fmt: skip
_JWTS: dict[str, _Group] = {
    "jwt_header": _Group({"JWT": "«jwt»"}, _BARE, [
        _shown("GET /api/v1/«svc» HTTP/1.1\nHost: «domain»\nAuthorization: Bearer «JWT»\nAccept: application/json"),
        {"url": "https://api.«domain»/me", "headers": {"authorization": "Bearer «JWT»"}},
        'curl -H "Authorization: Bearer «JWT»" https://api.«domain»/v1/«svc»',
        {"command": "http GET :8000/«svc» 'Authorization:Bearer «JWT»'"},
        _shown("> GET /«svc» HTTP/2\n> authorization: Bearer «JWT»\n>\n< HTTP/2 401")]),
    "jwt_response": _Group({"JWT": "«jwt»"}, _BARE, [
        {"access_token": "«JWT»", "id_token": "«JWT2=jwt»", "token_type": "Bearer", "expires_in": 3600},
        {"token": "«JWT»", "user": {"id": "«uuid»", "name": "«name»"}},
        {"status": 200, "body": _json({"data": {"login": {"jwt": "«JWT»"}}}, None)},
        _shown(_json({"accessToken": "«JWT»", "expiresOn": "«iso»", "subscription": "«uuid»", "tenant": "«uuid»",
            "tokenType": "Bearer"}), "az account get-access-token"),
        {"kind": "TokenRequest", "status": {"expirationTimestamp": "«iso»", "token": "«JWT»"}}]),
    "jwt_cookie_storage": _Group({"JWT": "«jwt»"}, _BARE, [_shown("Cookie: lang=en; access_token=«JWT»; theme=dark"),
        _shown("set-cookie: auth=«JWT»; Path=/; HttpOnly; Secure"), {"origin": "https://app.«domain»",
            "localStorage": [{"name": "theme", "value": "dark"}, {"name": "auth_token", "value": "«JWT»"}]},
        {"result": "localStorage.getItem('jwt') -> \"«JWT»\""}]),
    "jwt_url": _Group({"JWT": "«jwt»"}, _BARE, ["https://app.«domain»/verify?token=«JWT»",
        _shown("Hi «First»,\n\nplease confirm your account:\nhttps://«domain»/confirm?jwt=«JWT»&next=%2Fhome\n\n"
            "The link expires in 24 hours."), {"url": "wss://rt.«domain»/socket?access_token=«JWT»"},
        _shown('<a href="https://«domain»/magic/«JWT»">Sign in</a>')]),
    "jwt_log": _Group({"JWT": "«jwt»"}, _SHOWN, [
        '«iso» ERROR jwt verification failed: token=«JWT» err="token is expired"',
        '{"level":"warn","service":"«svc»","msg":"invalid signature","token":"«JWT»"}',
        "[«time»] DEBUG o.s.s.o.s.r.a.JwtAuthenticationProvider - Authenticated token «JWT»",
        "jsonwebtoken.JsonWebTokenError: invalid signature\n    token: «JWT»\n    at "
            "/app/node_modules/jsonwebtoken/verify.js:171:19",
        "io.jsonwebtoken.ExpiredJwtException: JWT expired\nJWT: «JWT»\n\tat io.jsonwebtoken.impl.DefaultJwtParse"
            "r.parse(DefaultJwtParser.java:427)"]),
    "jwt_config": _Group({"JWT": "«supabase_jwt»"}, _shown("«it»", "cat .env"), [
        "SUPABASE_URL=https://«l20».supabase.co\nSUPABASE_SERVICE_ROLE_KEY=«JWT»",
        'const supabase = createClient(url, "«JWT»")', "users:\n- name: ci\n  user:\n    token: «JWT»",
        "homeassistant:\n  ha_token: '«JWT»'", _json({"mcpServers": {"n8n": {"url": "https://n8n.«domain»/mcp",
            "headers": {"Authorization": "Bearer «JWT»"}}}})]),
    "jwt_chat": _Group({"JWT": "«jwt»"}, _SAID, ["can you decode this for me? «JWT»",
        "Why is this rejected?\n```\n«JWT»\n```\nIt was issued 5 minutes ago.",
        "Hier der Token aus den DevTools: «JWT»", "le jeton que je reçois est «JWT» et l'API répond 403",
        "このトークンで 401 になります:\n«JWT»", "paste into Swagger -> Authorize: Bearer «JWT»"]),
    "jwt_k8s": _Group({"JWT": "«account_jwt»"}, _BARE, [
        _shown("«JWT»", "cat /var/run/secrets/kubernetes.io/serviceaccount/token"),
        _shown("Name:         «svc»-token-«l5»\nNamespace:    prod\nType:  kubernetes.io/service-account-token\n\n"
            "Data\n====\nca.crt:     1099 bytes\nnamespace:  4 bytes\ntoken:      «JWT»", "kubectl describe secret"),
        {"command": "kubectl --token=«JWT» get pods -n prod"},
        _shown('TOKEN=«JWT»\ncurl -k -H "Authorization: Bearer $TOKEN" https://«ip»:6443/api', "history")]),
    "jwt_misc": _Group({"JWT": "«jwt»"}, _BARE, [{"log": {"entries": [{"request": {"method": "GET",
            "url": "https://«domain»/api", "headers": [{"name": "Accept", "value": "*/*"},
            {"name": "Authorization", "value": "Bearer «JWT»"}]}}]}},
        {"rows": [{"id": 7, "user_id": 42, "refresh_jwt": "«JWT»", "created_at": "«iso»"}], "rowCount": 1},
        {"number": "№«3..900»", "title": "Login loop after upgrade",
            "body": "Request headers from the HAR:\n\n    x-access-token: «JWT»\n\nVersion «ver»"},
        _shown('def test_me(client):\n    token = "«JWT»"\n    assert client.get("/me", headers={"Authorization": '
            'f"Bearer {token}"}).status_code == 200')]),
}  # fmt: skip
_CONNECTIONS: dict[str, _Group] = {
    "conn_env": _Group({"url PW": [f"«database:{which}»" for which in range(len(_URLS))],
            "name": [_URL_NAMES.get(url.split(":")[0], "DATABASE_URL") for url in _URLS],
            "line": _pick("«name»=«url»", '«name»="«url»"', "export «name»='«url»'")}, _shown("«it»", "cat .env"), [
        "APP_ENV=prod\n«line»\nWORKERS=4"], len(_URLS)),
    "conn_adonet": _Group({"PW": "«pw_ado»", "user": "«user»", "host": "«host»"}, _pick("«it»",
            _shown(_json({"ConnectionStrings": {"DefaultConnection": "«it»"}}), "cat appsettings.json"),
            _shown('<connectionStrings>\n  <add name="Main" connectionString="«it»" '
            'providerName="System.Data.SqlClient" />\n</connectionStrings>', "type web.config"),
            {"ConnectionStrings": {"Default": "«it»"}}), [
        "Server=«host»;Database=«svc»;User Id=«user»;Password=«PW»;TrustServerCertificate=True;",
        "Server=tcp:«org».database.windows.net,1433;Initial Catalog=«svc»;Persist Security Info=False;User "
            "ID=«user»;Password=«PW»;MultipleActiveResultSets=False;Encrypt=True;",
        "Host=«host»;Port=5432;Database=«svc»;Username=«user»;Password=«PW»;Pooling=true",
        "Data Source=«host»;uid=«user»;pwd=«PW»;Initial Catalog=«svc»",
        "Driver={ODBC Driver 18 for SQL Server};Server=«host»;Database=«svc»;UID=«user»;PWD=«PW»;Encrypt=yes",
        "Provider=OraOLEDB.Oracle;Data Source=ORCL;User Id=«user»;Password=«PW»;",
        "host=«host» port=5432 dbname=«svc» user=«user» password=«PW» sslmode=require"]),
    "conn_azure": _Group({"TOKEN": ["«bytes64»", "«bytes64»", "«bytes32»", "«bytes32»", "«bytes32»"], "org": "«org»",
            "device": "«1..99»"}, _BARE, [{"connectionString": "DefaultEndpointsProtocol=https;AccountName=«org»"
            "st;AccountKey=«TOKEN»;EndpointSuffix=core.windows.net"}, _shown("AZURE_STORAGE_CONNECTION_STRING=Defa"
            "ultEndpointsProtocol=https;AccountName=«org»st;AccountKey=«TOKEN»;EndpointSuffix=core.windows.net",
            "cat .env"), {"IsEncrypted": False, "Values": {"ServiceBusConnection": "Endpoint=sb://«org».servicebus."
            "windows.net/;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=«TOKEN»",
            "FUNCTIONS_WORKER_RUNTIME": "dotnet"}},
        "HostName=«org».azure-devices.net;DeviceId=dev«device»;SharedAccessKey=«TOKEN»",
        _shown('COSMOS="AccountEndpoint=https://«org».documents.azure.com:443/;AccountKey=«TOKEN»;"')]),
    "conn_jdbc": _Group({"PW": "«pw_short»"}, _shown("«it»", "cat application.properties"), [
        "spring.datasource.url=jdbc:postgresql://«host»:5432/«svc»?user=«user»&password=«PW»&ssl=true\n"
            "spring.jpa.show-sql=false",
        "spring.datasource.url=jdbc:mysql://«host»/«svc»?user=«user»&password=«PW»\nspring.jpa.show-sql=false",
        "spring.datasource.url=jdbc:sqlserver://«host»:1433;databaseName=«svc»;user=«user»;password=«PW»"
            ";encrypt=true\nspring.jpa.show-sql=false"]),
    "conn_tool_args": _Group({"url PW": ["«database:0»", "«database:3»", "«database:4»", "«database:1»", "«database:2»",
            "«database:5»", "«database:9»"]}, _BARE, [
        {"dsn": "«url»", "query": "SELECT id, status FROM orders LIMIT 10"},
        {"uri": "«url»", "collection": "«svc»", "filter": {"status": "open"}},
        {"command": "mongodump --uri='«url»' --out=/backup"}, {"command": "pg_dump «url» > dump.sql"},
        {"mcpServers": {"db": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-postgres", "«url»"]}}},
        {"name": "redis_get", "arguments": {"url": "«url»", "key": "cache:v2:home"}},
        "psql «url» -c 'select version()'"]),
    "conn_chat": _Group({"url PW": "«database»"}, _SAID, ["staging db is «url» (VPN only)",
        "Connection fails: «url» -> ECONNREFUSED, any idea?", "Die DB-URL ist «url», bitte in Secrets eintragen",
        "voici l'URL de connexion : «url»", "la cadena de conexión es «url»", "连接串：«url»"]),  # noqa: RUF001
    "conn_log": _Group({"url PW": ["«database:0»", "«database:1»", "«database:4»", "«database:5»", "«database:9»",
            "«database:10»"]}, _SHOWN, [
        'Traceback (most recent call last):\n  File "/app/db.py", line «5..90», in connect\n'
            "    engine = create_engine('«url»')\nsqlalchemy.exc.OperationalError: (psycopg2.OperationalError) could "
            "not connect to server",
        "«iso» [info] prisma:info Starting a postgresql pool with url «url»",
        "MongoServerSelectionError: connect ECONNREFUSED\n  uri: '«url»'",
        "[«date» «time»: INFO/MainProcess] Connected to «url»",
        "alembic.runtime.migration: Context impl PostgresqlImpl. url=«url»",
        "+ DATABASE_URL=«url» python manage.py migrate"]),
    "conn_code": _Group({"url PW": ["«database:0»", "«database:3»", "«database:2»", "«database:5»"]}, _SHOWN, [
        'engine = create_engine("«url»", pool_pre_ping=True)', "mongoose.connect('«url»')",
        "-  url: «url»\n+  url: ${DATABASE_URL}", 'rdb := redis.NewClient(mustParse("«url»"))']),
    "conn_git_and_config": _Group({"PW": "«pw_short»", "user": "«user»"}, _BARE, [
        _shown("origin\thttps://«user»:«PW»@bitbucket.org/«org»/«svc».git (fetch)", "git remote -v"),
        _shown("[global]\nextra-index-url = https://«user»:«PW»@pypi.«domain»/simple/", "cat pip.conf"),
        _shown("HTTPS_PROXY=http://«user»:«PW»@proxy.«domain»:3128", "env"),
        _shown("data:\n  uri: mongodb://«user»:«PW»@«host»/admin\n  name: x")]),
}  # fmt: skip
_CARDS: dict[str, _Group] = {
    "card_chat": _Group({"CARD": "«card»", "expiry": "«expiry»", "order": "«n6»", "name": "«name»"}, _SAID, [
        "my card number is «CARD», exp «expiry», please charge it",
        "Hi, I was charged twice on card «CARD». Order #«order».",
        "Hallo, meine Kreditkarte «CARD» wird nicht akzeptiert, gültig bis «expiry».",
        "Bonjour, ma carte «CARD» (exp. «expiry») est refusée.", "Hola, mi tarjeta es «CARD» y vence el «expiry»",
        "O número do meu cartão é «CARD», validade «expiry»", "La mia carta è «CARD», scadenza «expiry»",
        "Mijn creditcardnummer is «CARD»", "カード番号は «CARD»、有効期限は «expiry» です",
        "我的卡号是 «CARD»，有效期 «expiry»", "номер карты «CARD», срок «expiry»",  # noqa: RUF001
        "sure, it's «CARD» and the name is «name»", "Refund please to «CARD». Thanks «name»",
        "card: «CARD»\nexpiry: «expiry»\nname: «name»"]),
    "card_tool_args": _Group({"CARD": ["«card»", "«card:plain»"], "expiry": "«expiry»"}, _BARE, [
        {"tool": "create_payment_method", "arguments": {"type": "card", "card": {"number": "«CARD»",
            "exp_month": "№«expiry/mm»", "exp_year": "№20«expiry/yy»"}}},
        {"fields": [{"name": "Card number", "ref": "e40", "value": "«CARD»"}, {"name": "Expiry", "ref": "e41",
            "value": "«expiry»"}]}, {"element": "Card number input", "ref": "f2e8", "text": "«CARD»"},
        {"selector": "#cc-number", "value": "«CARD»"}, {"paymentMethod": {"type": "scheme", "number": "«CARD»",
            "holderName": "«name»"}, "amount": {"currency": "EUR", "value": "№«100..99999»"}},
        {"creditCard": {"cardholderName": "«name»", "number": "«CARD»", "expirationDate": "«expiry»"},
            "amount": "«price»"}, {"card_number": "«CARD»", "amount_cents": "№«100..9000»", "currency": "USD"},
        {"profile": {"name": "«name»", "pan": "«CARD»", "expiry": "«expiry»"}}]),
    "card_records": _Group({"CARD": "«card»", "CARD2": "«card»", "CARD3": "«card»", "CARD4": "«card:plain»",
            "CARD5": "«card:plain»", "CARD6": "«card:plain»"}, _BARE, [
        _shown("order_id,name,card_number,amount\n«n6»,«name»,«CARD4»,«price»\n«n6»,«name»,«CARD5»,«price»\n"
            "«n6»,«name»,«CARD6»,«price»"), _shown("| Guest | Card | Nights |\n|---|---|---|\n| «name» | «CARD» | "
            "«1..9» |\n| «name» | «CARD2» | «1..9» |\n| «name» | «CARD3» | «1..9» |"),
        {"rows": [{"id": 1, "holder": "«name»", "pan": "«CARD4»"}, {"id": 2, "holder": "«name»", "pan": "«CARD5»"},
            {"id": 3, "holder": "«name»", "pan": "«CARD6»"}], "rowCount": 3},
        _shown("INSERT INTO payments (order_id, card_no, amount) VALUES («n6», '«CARD4»', «price»);"),
        _shown("Datum\tName\tKartennummer\tBetrag\n«date»\t«name»\t«CARD»\t«price»\n«date»\t«name»\t«CARD2»\t«price»"
            "\n«date»\t«name»\t«CARD3»\t«price»"),
        _shown("<tr><td>«name»</td><td>«CARD»</td><td>«expiry»</td></tr>")]),
    "card_log": _Group({"CARD": "«card:plain»"}, _SHOWN, [
        "«iso» DEBUG PaymentService - charging card=«CARD» amount=«price» EUR orderId=«n7»",
        '{"level":"info","msg":"payment request","body":"{\\"cardNumber\\":\\"«CARD»\\",\\"amount\\":«1..900»}"}',
        "[«date» «time»] app.INFO: form submitted card_number=«CARD»&exp=«expiry»&zip=«n5»",
        "PaymentRequest{pan='«CARD»', expiry='«expiry»', amount=«price»}",
        "F002=«CARD» F003=000000 F004=000000«n6» F011=«n6»",
        "com.«org».pay.DeclinedException: card «CARD» declined (code 05)\n\tat com.pay.Gateway.charge(Gateway.java:"
            "«40..400»)"]),
    "card_docs": _Group({"CARD": ["«card:space»", "«card:plain»", "«card:dash»", "«card:space»", "«card:plain»"]},
        _SHOWN, [
        "Reservation form\nGuest: «name»\nArrival: «date»\nCredit card no.: «CARD»\nValid thru: «expiry»\n"
            "Signature: ________",
        '<Payment><CreditCard Type="VI"><Number>«CARD»</Number><ExpDate>«expiry»</ExpDate></CreditCard></Payment>',
        "Agent: could you read me the number?\nCaller: yes it's «CARD»\nAgent: thank you, and the expiry date?\n"
            "Caller: «expiry»",
        "Zahlung per Kreditkarte\nKartennummer: «CARD»\nGültig bis: «expiry»\nBetrag: «price» €",
        "card[number]=«CARD»&card[exp_month]=4&card[exp_year]=2029&key=form"]),
    "card_tickets": _Group({"CARD": "«card»"}, _BARE, [{"ticket": {"id": "№«n6»", "subject": "Double charge",
            "description": "Please refund the second payment on my card «CARD».\n«name»",
            "tags": ["billing", "refund"]}}, {"key": "PAY-«1..999»", "fields": {"summary": "PAN visible in logs",
            "description": "Found in log of «svc»: «CARD»"}}, {"threadId": "«h16»", "subject": "Booking",
            "body": "Dear Sir or Madam,\nplease use my Visa «CARD» valid until «expiry» as a guarantee.\n"
            "Kind regards\n«name»"}, {"object": {"Id": "500«w15»", "Subject": "Card update",
            "Description": "New card for subscription: «CARD» exp «expiry»"}},
        [{"author": "customer", "text": "ok here: «CARD»"}, {"author": "bot", "text": "Thanks! One moment."}]]),
}  # fmt: skip
_MAILS: dict[str, _Group] = {
    "email_records": _Group({"MAIL": "«email»", "First": "«First»", "Last": "«Last»"}, _BARE, [
        {"Id": "003«w15»", "FirstName": "«First»", "LastName": "«Last»", "Email": "«MAIL»", "AccountId": "001«w15»"},
        {"id": "cus_«w14»", "object": "customer", "balance": 0, "created": "№«epoch»", "email": "«MAIL»",
            "livemode": True}, {"ok": True, "user": {"id": "U0«u9»", "real_name": "«First» «Last»",
            "profile": {"email": "«MAIL»", "title": "Engineer"}}},
        {"order": {"id": "№«id13»", "name": "#«n4»", "email": "«MAIL»", "total_price": "«price»", "currency": "EUR"}},
        {"users": [{"id": "№«id12»", "name": "«First» «Last»", "email": "«MAIL»", "role": "end-user"}], "count": 1},
        {"accountId": "5«h23»", "emailAddress": "«MAIL»", "displayName": "«First» «Last»", "active": True},
        {"login": "«First/ascii/lower»«n2»", "id": "№«n7»", "email": "«MAIL»", "public_repos": "№«0..90»"},
        {"rows": [["№«1..999»", "«First»", "«Last»", "«MAIL»", "«iso»"]], "columns": ["id", "first", "last", "mail",
            "created_at"]}, {"properties": {"firstname": "«First»", "lastname": "«Last»", "email": "«MAIL»",
            "lifecyclestage": "lead"}, "id": "«n10»"},
        {"displayName": "«First» «Last»", "mail": "«MAIL»", "id": "«uuid»", "jobTitle": "Consultant"}]),
    "email_tools": _Group({"MAIL": "«email»", "MAIL2": "«email»", "QUOTED": "«MAIL/quoted»"}, _BARE, [
        {"to": ["«MAIL»"], "subject": "Invoice «n5»", "body": "Please find the invoice attached."},
        {"summary": "Sprint review", "start": {"dateTime": "«iso»"}, "attendees": [{"email": "«MAIL»",
            "responseStatus": "accepted"}, {"email": "«MAIL2»", "responseStatus": "needsAction"}]},
        {"tool": "search_contacts", "arguments": {"query": "«MAIL»"}},
        {"command": "git config --global user.email «MAIL» && git commit -m 'fix: retry'"},
        {"query": "SELECT Id, Name FROM Contact WHERE Email = '«MAIL»'"},
        {"fields": [{"name": "Email", "ref": "e9", "value": "«MAIL»"}]},
        {"url": "https://api.«domain»/users?email=«QUOTED»"}, {"from": "«name» <«MAIL»>", "to": "«name» <«MAIL2»>",
            "subject": "Re: contract", "snippet": "Thanks, looks good to me."},
        {"name": "invite_member", "arguments": {"email": "«MAIL»", "role": "member", "team_id": "№«1..99»"}}]),
    "email_chat": _Group({"MAIL": "«email»"}, _SAID, ["please send the invoice to «MAIL»",
        "Hi, my account email is «MAIL» and I can't log in", "Bitte senden Sie die Unterlagen an «MAIL».",
        "Vous pouvez me joindre à «MAIL»", "Mi correo es «MAIL»", "meu e-mail: «MAIL»", "La mia mail è «MAIL», grazie",
        "メールアドレスは «MAIL» です", "邮箱：«MAIL»", "мой email «MAIL»", "cc «MAIL» on this", "Kontakt: «MAIL»",  # noqa: RUF001
        "Best regards,\n«name»\n«MAIL»", "contact me at <«MAIL»>!", "mój adres to «MAIL»"]),
    "email_logs": _Group({"MAIL": "«email»", "MAIL2": "«email»"}, _BARE, [
        _shown("commit «h40»\nAuthor: «name» <«MAIL»>\nDate:   Tue Mar 4 «time» 2025 +0100\n\n"
            "    fix: handle empty cart", "git log -1"),
        _shown("«iso» INFO  UserService - password reset requested for «MAIL» from «ip»"),
        _shown("Mar 12 «time» mx1 postfix/smtp[«n5»]: «u10»: to=<«MAIL»>, relay=mx.«domain»[«ip»]:25, delay=1.2, "
            "status=sent (250 OK)"),
        _shown('{"event":"delivered","email":"«MAIL»","timestamp":«epoch»,"sg_event_id":"«s22»"}'),
        _shown("django.core.exceptions.ValidationError: User with email «MAIL» already exists."),
        _shown("Co-authored-by: «name» <«MAIL»>\nSigned-off-by: «name» <«MAIL2»>"),
        _shown('ERROR:  duplicate key value violates unique constraint "users_email_key"\nDETAIL:  Key '
            "(email)=(«MAIL») already exists."), _shown("From: «name» <«MAIL»>\nTo: «MAIL2»\nDate: Wed, 12 Mar "
            "2025 «time» +0000\nSubject: Offer\nMIME-Version: 1.0\n\nDear all, see attached.")]),
    "email_files": _Group({"MAIL": "«email»", "MAIL2": "«email»", "MAIL3": "«email»"}, _BARE, [
        _shown("id,name,email,plan\n1,«name»,«MAIL»,pro\n2,«name»,«MAIL2»,pro\n3,«name»,«MAIL3»,pro"),
        _shown(_json({"name": "@«org»/ui", "version": "«ver»", "author": "«name» <«MAIL»>", "license": "MIT"}),
            "cat package.json"), _shown('<p>Questions? <a href="mailto:«MAIL»">«MAIL»</a></p>'),
        _shown("| Name | E-Mail | Team |\n|---|---|---|\n| «name» | «MAIL» | «svc» |\n| «name» | «MAIL2» | «svc» |\n"
            "| «name» | «MAIL3» | «svc» |"),
        _shown("BEGIN:VCARD\nVERSION:3.0\nFN:«name»\nEMAIL;TYPE=WORK:«MAIL»\nEND:VCARD"),
        _shown("BEGIN:VEVENT\nUID:«uuid»\nORGANIZER;CN=«name»:mailto:«MAIL»\nATTENDEE;RSVP=TRUE:mailto:«MAIL2»\n"
            "SUMMARY:Standup\nEND:VEVENT"), _shown("bindings:\n- members:\n  - user:«MAIL»\n  - user:«MAIL2»\n"
            "  role: roles/editor\netag: BwY«s8»=", "gcloud projects get-iam-policy"),
        _shown("<contact><name>«name»</name><email>«MAIL»</email></contact>")]),
    "email_tickets": _Group({"MAIL": "«email»", "MAIL2": "«email»"}, _BARE, [
        {"ticket": {"id": "№«n5»", "via": {"channel": "email", "source": {"from": {"address": "«MAIL»",
            "name": "«name»"}}}, "subject": "Parcel missing"}}, {"key": "HR-«1..99»", "fields": {
            "assignee": {"emailAddress": "«MAIL»", "displayName": "«name»"}, "reporter": {"emailAddress": "«MAIL2»"}}},
        _said("Escalating to «MAIL»; customer wrote from «MAIL2» twice today."),
        {"comment": "[~«first»] could you add «MAIL» to the distribution list?"},
        _shown("[«date» «time»] «name»: here is my address «MAIL»\n[«date» «time»] «name»: got it, will forward to "
            "«MAIL2»"), {"messages": [{"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Draft a reply to «MAIL» saying the delivery is late."}]}]),
}  # fmt: skip
_PHONE_NUMBERS: dict[str, _Group] = {
    "phone_records": _Group({"PHONE": "«phone»", "PHONE2": "«e164»", "BARE": "«PHONE2/bare»"}, _BARE, [
        {"Id": "003«w15»", "LastName": "«Last»", "Phone": "«PHONE»", "MobilePhone": "«PHONE2»"},
        {"id": "cus_«w14»", "object": "customer", "name": "«name»", "phone": "«PHONE2»"},
        {"order": {"id": "№«id13»", "shipping_address": {"name": "«name»", "address1": "12 Main St", "city": "Lyon",
            "phone": "«PHONE»"}}}, {"sid": "SM«h32»", "from": "«PHONE2»", "to": "«PHONE3=e164»",
            "body": "Your parcel is on its way", "status": "sent"},
        {"user": {"name": "«name»", "phone_number": "«PHONE2»", "locale": "de-DE"}},
        {"properties": {"firstname": "«First»", "phone": "«PHONE»", "hs_object_id": "«n10»"}},
        {"rows": [["№«1..99»", "«name»", "«PHONE»"]], "columns": ["id", "name", "telephone"]},
        {"contact": {"displayName": "«name»", "businessPhones": ["«PHONE»"], "mobilePhone": "«PHONE2»"}},
        {"object": "whatsapp_business_account", "entry": [{"changes": [{"value": {"messages": [
            {"from": "«BARE»", "type": "text", "text": {"body": "hello"}}]}}]}]},
        {"name": "Bistro «company»", "formatted_address": "4 Rue Cler, Paris", "international_phone_number": "«PHONE»",
            "rating": 4.5}]),
    "phone_tools": _Group({"PHONE": "«e164»", "PHONE2": "«phone»", "PHONE3": "«us_phone»"}, _BARE, [
        {"tool": "send_sms", "arguments": {"to": "«PHONE»", "message": "Your appointment is tomorrow at 10."}},
        {"To": "«PHONE»", "From": "«PHONE4=e164»", "Url": "https://«domain»/voice.xml"},
        {"fields": [{"name": "Phone", "ref": "e21", "value": "«PHONE3»"}]},
        'client.messages.create(to="«PHONE»", from_="«PHONE5=e164»", body="hi")',
        {"selector": "input[type=tel]", "value": "«PHONE2»"}, {"to": "whatsapp:«PHONE»", "template": "order_update"},
        {"query": "SELECT id FROM contacts WHERE phone = '«PHONE»'"},
        {"name": "update_contact", "arguments": {"contact_id": "«n6»", "mobile": "«PHONE2»"}}]),
    "phone_chat": _Group({"PHONE": ["«phone»", "«phone»", "«phone»", "«us_phone»", "«us_phone»", "«us_phone»",
            "«phone_uk»", "«phone_de»", "«phone_de»", "«phone_fr»", "«phone_fr»", "«phone_es»", "«phone_es»",
            "«phone_pt»", "«phone_it»", "«phone_pl»", "«phone_nl»", "«phone_ja»", "«phone_zh»", "«phone»", "«phone»",
            "«us_phone»"], "name": "«name»"}, _SAID, [
        "call me at «PHONE»", "Hi, my number is «PHONE», best after 6pm", "You can reach «name» on «PHONE» or by chat.",
        "please text me: «PHONE»", "Phone: «PHONE»\nName: «name»", "my cell is «PHONE» thanks",
        "ring me on «PHONE» tomorrow", "Bitte rufen Sie mich unter «PHONE» zurück.", "Tel.: «PHONE»",
        "Vous pouvez me joindre au «PHONE»", "Tél : «PHONE», merci", "mi teléfono es «PHONE»",
        "Llámame al «PHONE» por favor", "meu celular é «PHONE»", "il mio numero di cellulare è «PHONE»",
        "mój numer telefonu: «PHONE»", "bel me op «PHONE»", "電話番号は «PHONE» です", "我的手机号是«PHONE»",
        "Mit freundlichen Grüßen\n«name»\nMobil: «PHONE»", "WhatsApp «PHONE» or email", "Office «PHONE» ext. 204"]),
    "phone_logs": _Group({"PHONE": "«e164»", "PHONE2": "«phone»"}, _SHOWN, [
        "«iso» INFO sms-gateway - delivered to=«PHONE» messageId=«uuid» segments=1",
        '{"level":"error","msg":"twilio error 21211","to":"«PHONE»","code":21211}',
        "Twilio.Exceptions.ApiException: The 'To' number «PHONE» is not a valid phone number.",
        '[«time»] asterisk: Executing Dial("SIP/trunk-«h8»", "SIP/«PHONE»,30")',
        "otp sent to phone «PHONE» (attempt «1..3»)", "Caller ID: «PHONE2»  duration «10..900»s  queue=support",
        "WARN  duplicate contact: phone=«PHONE» tenant=«org»"]),
    "phone_files": _Group({"PHONE": "«phone»", "PHONE2": "«phone»", "PHONE3": "«phone»", "PHONE4": "«us_phone»",
            "PHONE5": "«us_phone»", "PHONE6": "«us_phone»"}, _BARE, [
        _shown("name,phone,city\n«name»,«PHONE»,Berlin\n«name»,«PHONE2»,Berlin\n«name»,«PHONE3»,Berlin"),
        _shown('<a href="tel:«PHONE7=e164»">Call us</a>'),
        _shown("| Name | Phone |\n|---|---|\n| «name» | «PHONE4» |\n| «name» | «PHONE5» |\n| «name» | «PHONE6» |"),
        _shown("BEGIN:VCARD\nFN:«name»\nTEL;TYPE=CELL:«PHONE»\nEND:VCARD"),
        _shown("<customer><name>«name»</name><telephone>«PHONE»</telephone></customer>"),
        _shown("Name\tMobile\tPlan\n«name»\t«PHONE»\tbasic\n«name»\t«PHONE2»\tbasic\n«name»\t«PHONE3»\tbasic"),
        _shown("On-call this week\n- primary: «name» «PHONE»\n- secondary: «name» «PHONE2»\n"
            "- vendor hotline: «PHONE4»")]),
    "phone_tickets": _Group({"PHONE": "«phone»", "PHONE2": "«us_phone»"}, _BARE, [
        {"ticket": {"id": "№«n5»", "subject": "Callback",
            "description": "Customer «name» asks for a call back at «PHONE» regarding order «n6»."}},
        {"comment": {"body": "Tried «PHONE2» twice, no answer. Left voicemail.", "public": False}},
        _shown("Agent: can I have a number to call you back?\nCaller: sure, «PHONE2»."),
        {"subject": "Lieferung", "body": "Guten Tag,\nder Fahrer erreicht mich unter «PHONE».\n«name»"},
        {"location": "HQ", "description": "Dial-in: «PHONE», PIN on the invite", "summary": "Board call"},
        [{"author": "customer", "text": "«PHONE2»"}, {"author": "bot",
            "text": "Thank you, we will call you on that number."}]]),
}  # fmt: skip
_CONTACTS: dict[str, _Group] = {
    "mixed_contact": _Group({"MAIL": "«email»", "PHONE": "«phone»"}, _BARE, [
        {"name": "«name»", "email": "«MAIL»", "phone": "«PHONE»", "company": "«company»"},
        _said("«name»\n«company» GmbH\nTel. «PHONE»\n«MAIL»"), _shown("name,email,phone\n«name»,«MAIL»,«PHONE»"),
        {"requester": {"name": "«name»", "email": "«MAIL»", "phone": "«PHONE»"}, "subject": "Quote"},
        _shown("Lead from web form\nName: «name»\nE-mail: «MAIL»\nPhone: «PHONE»\nMessage: please call me back")]),
}  # fmt: skip
_LOGINS: dict[str, _Group] = {
    "mixed_login_email": _Group({"mail": "«email»", "PW": "«pw_shell»", "MAIL": "«mail»"}, _BARE, [
        {"email": "«MAIL»", "password": "«PW»"}, _said("email: «MAIL»\npassword: «PW»"),
        {"command": "curl -u '«MAIL»:«PW»' https://«org».atlassian.net/rest/api/3/myself"}]),
}  # fmt: skip
_CLEAN: dict[str, _Group] = {
    "c_git_text": _Group({}, _shown("«it»", "git log"), ["«commits»",
        "commit «h40»\nMerge: «h7» «h7»\nDate:   Tue Mar 4 «time» 2025 +0100\n\n    Merge pull request #«1..999» from "
            "«org»/rotate-keys",
        "diff --git a/src/auth.py b/src/auth.py\nindex «h7»..«h7» 100644\n--- a/src/auth.py\n+++ b/src/auth.py\n"
            "@@ -40,8 +40,9 @@ def login(username, password):\n     user = User.get(username)\n"
            "-    if user.password == password:\n+    if check_password_hash(user.password_hash, password):\n"
            "+        token = create_access_token(identity=user.id)\n         return token",
        "«h40»\trefs/heads/main\n«h40»\trefs/heads/release/2.4\n«h40»\trefs/heads/feature/api-keys\n"
            "«h40»\trefs/heads/fix/token-expiry",
        "«h8» («First» «date» «time» +0200 1) import os\n«h8» («First» «date» «time» +0200 2) \n"
            '«h8» («First» «date» «time» +0200 3) SECRET_KEY = os.environ["SECRET_KEY"]\n«h8» («First» «date» «time» '
            "+0200 4) DEBUG = False",
        " src/password_reset.ts     | 14 +++++++-------\n src/tokens/index.ts       |  3 +--\n"
            " test/login.spec.ts        | 22 ++++++++++++++++++++++\n 3 files changed, 30 insertions(+), 9 "
            "deletions(-)"]),
    "c_github_api": _Group({}, _BARE, [{"number": "№«1..9999»", "title": "Add API key scopes", "state": "open",
            "head": {"ref": "feature/key-scopes", "sha": "«h40»"}, "base": {"ref": "main", "sha": "«h40»"},
            "node_id": "PR_kw«s16»", "url": "https://api.github.com/repos/«org»/«svc»/pulls/«1..999»"},
        {"total_count": 1, "check_runs": [{"id": "№«n11»", "name": "secret-scan", "head_sha": "«h40»",
            "status": "completed", "conclusion": "success", "external_id": "«uuid»", "started_at": "«iso»"}]},
        {"workflow_runs": [{"id": "№«n11»", "run_number": "№«1..900»", "head_sha": "«h40»", "event": "push",
            "check_suite_node_id": "CS_kwDO«s18»"}]}, {"total_count": 2, "secrets": [{"name": "NPM_TOKEN",
            "created_at": "«iso»", "updated_at": "«iso»"}, {"name": "AWS_SECRET_ACCESS_KEY", "created_at": "«iso»",
            "updated_at": "«iso»"}]}, {"data": {"repository": {"issues": {"pageInfo": {"endCursor": "Y3Vyc29yOnYyOpHO"
            "«s8»==", "hasNextPage": True}, "nodes": [{"id": "I_kwDO«s12»", "title": "Password field loses focus"}]}}}},
        {"id": "№«n9»", "path": "src/auth/token.ts", "line": "№«5..200»", "commit_id": "«h40»",
            "body": _pick("Please don't log the token here, even at debug level.",
            "nit: `password` should be `SecretStr` so it isn't shown in repr",
            "Where does this API key come from? Should be read from the environment.",
            "Can we hash the refresh token before storing it?")}, {"name": "install.sh", "path": "scripts/install.sh",
            "sha": "«h40»", "size": "№«100..9000»", "encoding": "base64", "content": _base64(
            "#!/usr/bin/env bash\nset -euo pipefail\necho installing «svc» «ver»\nmake all\n")}]),
    "c_workflow_yaml": _Group({}, _shown("«it»", "cat .github/workflows/release.yml"), [
        "name: release\non:\n  push:\n    tags: ['v*']\npermissions:\n  id-token: write\njobs:\n  publish:\n"
            "    runs-on: ubuntu-latest\n    steps:\n      - uses: actions/checkout@v4\n      - uses: "
            "actions/setup-node@v4\n      - run: npm publish\n        env:\n          NODE_AUTH_TOKEN: ${{ "
            "secrets.NPM_TOKEN }}",
        "deploy:\n  stage: deploy\n  image: registry.gitlab.com/«org»/«svc»:«ver»\n  script:\n"
            '    - docker login -u "$CI_REGISTRY_USER" -p "$CI_REGISTRY_PASSWORD" $CI_REGISTRY\n'
            '    - curl --header "JOB-TOKEN: $CI_JOB_TOKEN" "$CI_API_V4_URL/projects"',
        "version: 2.1\norbs:\n  aws-cli: circleci/aws-cli@4.1\njobs:\n  build:\n    docker:\n"
            '      - image: cimg/node@sha256:«h64»\n    steps:\n      - restore_cache:\n          keys: ["v1-deps-{{ '
            'checksum \\"package-lock.json\\" }}"]\n      - run: echo "//registry.npmjs.org/:_authToken=$NPM_TOKEN" > '
            ".npmrc",
        "pipeline {\n  environment {\n    SONAR_TOKEN = credentials('sonar-token')\n    DB = "
            "credentials('db-creds')\n  }\n  stages { stage('Test') { steps { sh './mvnw verify "
            "-Dsonar.token=$SONAR_TOKEN' } } }\n}"]),
    "c_ci_log": _Group({}, _SHOWN, [
        "##[group]Run npm publish\nnpm publish\nenv:\n  NODE_AUTH_TOKEN: ***\n##[endgroup]\nnpm notice shasum: «h40»\n"
            "npm notice integrity: sha512-«b86»==\n+ @«org»/«svc»@«ver»",
        "Cache restored from key: Linux-node-«h64»\nReceived 84213760 of 84213760 (100.0%), 92.1 MBs/sec\n"
            "Post job cleanup. Run id «n11»",
        "#12 [build 4/7] RUN npm ci\n#12 CACHED\n#15 exporting manifest sha256:«h64» done\n"
            "#15 pushing layers 3.1s done\ndigest: sha256:«h64» size: «n4»",
        "PASS src/auth/password.test.ts\n  ✓ rejects a short password (4 ms)\n  ✓ hashes the password with bcrypt (81 "
            "ms)\n  ✓ issues a token on login (12 ms)\nTests:       3 passed, 3 total\nTime:        "
            "«1..30».«100..999» s",
        "============ test session starts ============\nplatform linux -- Python 3.12.3, pytest-8.2.0\n"
            "collected «20..400» items\n\ntests/test_tokens.py::test_expired_token PASSED\n"
            "tests/test_login.py::test_wrong_password[short] PASSED\n====== 2 passed in «1..9».«10..99»s ======",
        "«iso» Running with gitlab-runner 17.0.0 («h8»)\nChecking out «h8» as detached HEAD (ref is main)...\n"
            "Skipping Git submodules setup\n$ gitleaks detect --redact\nINF no leaks found\nJob succeeded"]),
    "c_stripe": _Group({}, _BARE, [{"id": "ch_3«w23»", "object": "charge", "amount": "№«100..90000»",
            "balance_transaction": "txn_3«w23»", "currency": "eur", "payment_method_details": {
            "card": {"brand": "visa", "last4": "«n4»", "exp_month": 8, "exp_year": 2027, "fingerprint": "«w16»",
            "network_transaction_id": "«id15»"}}, "status": "succeeded"},
        {"object": "list", "data": [{"id": "in_1«w23»", "number": "«u8»-0003", "total": "№«100..9000»",
            "subscription": "sub_1«w23»", "status": "paid"}], "has_more": False},
        {"id": "evt_1«w23»", "type": "payment_intent.succeeded", "request": {"id": "req_«w14»",
            "idempotency_key": "«uuid»"}, "api_version": "2024-06-20"},
        {"id": "price_1«w23»", "product": "prod_«w14»", "unit_amount": "№«100..9999»", "lookup_key": "pro_monthly",
            "recurring": {"interval": "month"}}, {"error": {"type": "card_error", "code": "card_declined",
            "decline_code": "insufficient_funds", "message": "Your card has insufficient funds.",
            "request_log_url": "https://dashboard.stripe.com/logs/req_«w14»"}},
        {"tool": "stripe_refund", "arguments": {"payment_intent": "pi_3«w23»", "amount": "№«100..5000»",
            "reason": "requested_by_customer"}},
        _shown("Refunded €«price» on ch_3«w23» (refund re_3«w23»), card ending in «n4».")]),
    "c_shopify": _Group({}, _BARE, [{"order": {"id": "№«id13»", "admin_graphql_api_id": "gid://shopify/Order/«id13»",
            "name": "#«n4»", "checkout_id": "№«id14»", "total_price": "«price»",
            "line_items": [{"id": "№«id14»", "sku": "TS-«u6»", "quantity": 2}], "fulfillment_status": None}},
        {"data": {"products": {"edges": [{"cursor": _url_json({"last_id": "№«id13»", "last_value": "«n4»"}),
            "node": {"id": "gid://shopify/Product/«id13»", "handle": "keyboard-case", "title": "Keyboard case"}}]}}},
        {"variant": {"id": "№«id14»", "barcode": "«ean»", "sku": "«u4»-«n3»", "price": "«price»",
            "inventory_item_id": "№«id14»"}}, {"fulfillment": {"tracking_company": "UPS",
            "tracking_number": "1Z«u6»«n10»", "tracking_url": "https://www.ups.com/track?tracknum=1Z«u6»«n10»",
            "status": "success"}}]),
    "c_tickets": _Group({}, _BARE, [{"id": "«n5»", "key": "SEC-«1..999»", "fields": {"summary": _pick(
            "Rotate database passwords before audit", "API keys page is slow", "Expired tokens are not deleted"),
            "description": "h3. Goal\nAll service passwords must be rotated every 90 days.\n\nh3. Done when\n"
            "* runbook updated\n* old secret removed from Vault", "customfield_10020": [{"id": 44,
            "name": "Sprint 31"}], "status": {"name": "In Progress"}}},
        {"ticket": {"id": "№«n6»", "subject": "Can't reset my password", "description": "I requested the password "
            "reset link three times and it never arrives. My user name is «first»«10..99».", "brand_id": "№«id12»",
            "tags": ["login", "password_reset"]}}, {"totalSize": 1, "done": True, "records": [
            {"attributes": {"type": "Case", "url": "/services/data/v60.0/sobjects/Case/500«w15»"}, "Id": "500«w15»",
            "CaseNumber": "«n8»", "OwnerId": "005«w15»", "Subject": "Security token not received"}]},
        {"issue": {"id": "«uuid»", "identifier": "ENG-«1..3000»", "title": "Tokenizer drops emojis",
            "branchName": "fix-tokenizer-emoji", "url": "https://linear.app/«org»/issue/ENG-«1..900»"}},
        {"incident": {"id": "Q«u13»", "incident_number": "№«1..9000»", "incident_key": "«h32»",
            "title": "High error rate on «svc»", "urgency": "high", "service": {"id": "P«u6»"}}},
        {"results": [{"id": "«n11»", "properties": {"dealname": "Key account renewal", "amount": "«price»",
            "dealstage": "«n7»", "hs_object_id": "«n11»"}}], "paging": {"next": {"after": "«n11»"}}}]),
    "c_aws": _Group({"org": "«org»"}, _BARE, [_shown("«date» «time» «size» exports/«date/folders»/part-«0..99:05»"
            "-«uuid».snappy.parquet\n" * 3 +
            "«date» «time» «size» exports/«date/folders»/part-«0..99:05»-«uuid».snappy.parquet",
            "aws s3 ls s3://«org»-lake/exports/"), {"Contents": [{"Key": "uploads/«uuid»/avatar.png",
            "LastModified": "«iso»", "ETag": '"«h32»"', "Size": "№«10..99999»", "StorageClass": "STANDARD"}],
            "NextContinuationToken": "«b76»=", "IsTruncated": True},
        {"UserId": "AROA«t17»:cli", "Account": "«id12»", "Arn": "arn:aws:sts::«id12»:assumed-role/Admin/cli"},
        {"Users": [{"Path": "/", "UserName": "ci-«svc»", "UserId": "AIDA«t17»",
            "Arn": "arn:aws:iam::«id12»:user/ci-«svc»", "PasswordLastUsed": "«iso»"}]},
        {"SecretList": [{"ARN": "arn:aws:secretsmanager:«eu-west-1|us-east-1»:«id12»:secret:prod/«svc»/db-password-"
            "«w6»", "Name": "prod/«svc»/db-password", "LastChangedDate": "«iso»",
            "SecretVersionsToStages": {"«uuid»": ["AWSCURRENT"]}}]}, {"Instances": [{"InstanceId": "i-0«h16»",
            "ImageId": "ami-0«h16»", "KeyName": "ops-key", "SubnetId": "subnet-0«h16»", "PrivateIpAddress": "«ip»",
            "ClientToken": "«uuid»"}]}, {"Messages": [{"MessageId": "«uuid»", "ReceiptHandle": "AQEB«b260»==",
            "MD5OfBody": "«h32»", "Body": '{"orderId": «n6»}'}]}, {"imageDetails": [{"registryId": "«id12»",
            "repositoryName": "«svc»", "imageDigest": "sha256:«h64»", "imageTags": ["main-«h7»"],
            "imageSizeInBytes": "№«n9»"}]}, {"KeyMetadata": {"KeyId": "«uuid»",
            "Arn": "arn:aws:kms:«eu-west-1|us-east-1»:«id12»:key/«uuid»", "KeyState": "Enabled",
            "KeyUsage": "ENCRYPT_DECRYPT", "Description": "rds master key"}},
        _shown("START RequestId: «uuid» Version: $LATEST\n«iso_ms»\t«uuid»\tINFO\tfetched secret prod/«svc» "
            "(cached)\nREPORT RequestId: «uuid»\tDuration: «price» ms\tMemory Size: 512 MB\tXRAY TraceId: "
            "1-«h8»-«h24»"), {"Items": [{"pk": {"S": "ORDER#«uuid»"}, "sk": {"S": "META"}, "ttl": {"N": "«epoch»"}}],
            "LastEvaluatedKey": {"pk": {"S": "ORDER#«uuid»"}, "sk": {"S": "META"}}},
        {"StackId": "arn:aws:cloudformation:«eu-west-1|us-east-1»:«id12»:stack/«svc»/«uuid»",
            "Parameters": [{"ParameterKey": "DBPassword", "ParameterValue": "****"},
            {"ParameterKey": "InstanceType", "ParameterValue": "t4g.small"}], "StackStatus": "UPDATE_COMPLETE"},
        {"Parameters": [{"Name": "/prod/«svc»/api_key", "Type": "SecureString", "KeyId": "alias/aws/ssm",
            "Version": "№«1..9»", "LastModifiedDate": "«iso»"}]}, {"events": [{"logStreamName": "ecs/app/«h32»",
            "timestamp": "№«epoch»000", "message": "Health check ok", "eventId": "«d56»"}],
            "nextToken": "Bxkq6kVGFtq2y_Moigeqsc«s60»"},
        {"command": "aws secretsmanager get-secret-value --secret-id prod/«svc» --query SecretString --output text"},
        {"CertificateArn": "arn:aws:acm:«eu-west-1|us-east-1»:«id12»:certificate/«uuid»", "DomainValidationOptions": [
            {"ResourceRecord": {"Name": "_«h32».«domain».", "Type": "CNAME",
            "Value": "_«h32».acm-validations.aws."}}]}]),
    "c_gcp_azure": _Group({}, _BARE, [_shown("NAME          ZONE            MACHINE_TYPE  INTERNAL_IP   STATUS" +
            "\n«svc»-«l4»  europe-west1-b  e2-standard-4 «ip»  RUNNING" * 3, "gcloud compute instances list"),
        {"insertId": "«l14»", "logName": "projects/«svc»-prod/logs/run.googleapis.com%2Fstdout", "severity": "INFO",
            "trace": "projects/«svc»-prod/traces/«h32»", "spanId": "«h16»", "textPayload": "token cache miss",
            "timestamp": "«iso_ms»"},
        {"jobReference": {"jobId": "bquxjob_«h8»_«h11»"}, "pageToken": "«s40»", "totalRows": "«n6»", "etag": "«s22»=="},
        {"files": [{"id": "1«s32»", "name": "Password policy.docx", "mimeType": "application/vnd.google-apps.document",
            "md5Checksum": "«h32»"}], "nextPageToken": "~!!~AI9FV7«s90»"},
        [{"id": "«uuid»", "name": "Production", "tenantId": "«uuid»", "state": "Enabled", "isDefault": True}],
        [{"id": "https://«org»-kv.vault.azure.net/secrets/db-password/«h32»", "attributes": {"enabled": True,
            "created": "«iso»"}, "contentType": "password"}], {"id": "/subscriptions/«uuid»/resourceGroups/rg-«svc»"
            "/providers/Microsoft.KeyVault/vaults/«org»-kv", "etag": 'W/"«uuid»"',
            "properties": {"provisioningState": "Succeeded", "sku": {"name": "standard"}}},
        _shown("NAME                CREATED              REPLICATION_POLICY\nstripe-api-key      «iso»  automatic\n"
            "jwt-signing-secret  «iso»  automatic", "gcloud secrets list")]),
    "c_kubernetes": _Group({"app": "«svc»"}, _shown("«it»", "kubectl get pods"), [
        "NAME                          READY   STATUS    RESTARTS   AGE" +
            "\n«svc»-«h9»-«l5»   1/1     Running   0          «1..90»d" * 4,
        "NAME                  TYPE                                  DATA   AGE\n«app»-db                "
            "Opaque                                2      41d\ndefault-token-«l5»   "
            "kubernetes.io/service-account-token   3      200d\n«app»-tls               "
            "kubernetes.io/tls                     2      12d",
        "        env:\n        - name: DB_PASSWORD\n          valueFrom:\n            secretKeyRef:\n"
            "              name: «app»-db\n              key: password\n        - name: API_TOKEN\n"
            "          valueFrom:\n            secretKeyRef: {name: «app»-api, key: token}",
        "Name:         «app»-db\nNamespace:    prod\nType:  Opaque\n\nData\n====\npassword:  24 bytes\n"
            "username:  8 bytes",
        "    Container ID:   containerd://«h64»\n    Image ID:       ghcr.io/«org»/«app»@sha256:«h64»\n"
            "    Environment Variables from:\n      «app»-secrets  Secret  Optional: false\n    Environment:\n"
            "      DB_PASSWORD:  <set to the key 'password' in secret 'pg'>  Optional: false",
        "«1..59»m  Warning  Failed  pod/«svc»-«h9»-«l5»  Error: couldn't find key api-key in Secret "
            "prod/«app»-secrets\n3m   Normal   Pulled  pod/«svc»-«h9»-«l5»  Successfully pulled image in 1.8s",
        "replicaCount: 3\nimage:\n  repository: ghcr.io/«org»/«app»\n  tag: sha-«h7»\nexistingSecret: "
            '«app»-credentials\nexistingSecretPasswordKey: password\nauth:\n  enabled: true\n  password: ""',
        "apiVersion: external-secrets.io/v1beta1\nkind: ExternalSecret\nspec:\n  secretStoreRef: {name: vault, kind: "
            "ClusterSecretStore}\n  data:\n  - secretKey: password\n    remoteRef: {key: prod/«app», property: "
            "password}",
        "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata:\n  name: «app»\nspec:\n  encryptedData: {}\n"
            "  template:\n    type: Opaque",
        'Error from server (Forbidden): secrets is forbidden: User "system:serviceaccount:ci:default" cannot list '
            'resource "secrets" in API group "" in the namespace "prod"',
        _json({"kind": "Pod", "metadata": {"name": "«svc»-«h9»-«l5»", "uid": "«uuid»", "resourceVersion": "«n9»",
            "labels": {"pod-template-hash": "«h9»"}}, "spec": {"nodeName": "ip-10-0-«1..99»-«1..99».eu-west-1.c"
            "ompute.internal", "serviceAccountName": "«app»"}}),
        "NAME            CPU(cores)   MEMORY(bytes)" + "\n«svc»-«h9»-«l5»   «1..900»m   «20..900»Mi" * 3]),
    "c_terraform": _Group({}, _shown("«it»", "terraform plan"), [
        'variable "db_password" {\n  type        = string\n  sensitive   = true\n  description = "Master password of '
            'the database"\n}',
        '  # aws_db_instance.main will be updated in-place\n  ~ resource "aws_db_instance" "main" {\n'
            '        id       = "db-«u26»"\n      ~ password = (sensitive value)\n    }\nPlan: 0 to add, 1 to change, '
            "0 to destroy.",
        'resource "aws_secretsmanager_secret_version" "db" {\n  secret_id     = aws_secretsmanager_secret.db.id\n'
            "  secret_string = random_password.db.result\n}",
        'provider "registry.terraform.io/hashicorp/aws" {\n  version = "«ver»"\n  hashes = [\n    "h1:«b43»=",\n'
            '    "h1:«b43»=",\n    "zh:«h64»",\n    "zh:«h64»",\n    "zh:«h64»",\n  ]\n}',
        'Outputs:\n\napi_token = <sensitive>\nbucket = "«org»-assets-«h8»"\nlb_dns = '
            '"«svc»-«n9».eu-west-1.elb.amazonaws.com"',
        'db_password = var.db_password\napi_key     = data.vault_generic_secret.api.data["key"]\n'
            'ami_id      = "ami-0«h16»"']),
    "c_lockfiles": _Group({"svc": "«svc»"}, _shown("«it»", "cat package-lock.json"), [
        _json({"node_modules/«svc»": {"version": "«ver»",
            "resolved": "https://registry.npmjs.org/«svc»/-/«svc»-«ver».tgz", "integrity": "sha512-«b86»==",
            "engines": {"node": ">=18"}}}),
        '"@types/«svc»@^1.2.3":\n  version "«ver»"\n  resolved "https://registry.yarnpkg.com/@types/«svc»/-/«svc»'
            '-1.2.4.tgz#«h40»"\n  integrity sha512-«b86»==',
        "requests==«ver» \\\n    --hash=sha256:«h64» \\\n    --hash=sha256:«h64» \\\n    --hash=sha256:«h64»",
        "github.com/golang-jwt/jwt/v5 v5.2.1 h1:«b43»=\ngithub.com/golang-jwt/jwt/v5 v5.2.1/go.mod h1:«b43»=",
        '[[package]]\nname = "tokenizers"\nversion = "«ver»"\nsource = "registry+https://github.com/rust-la'
            'ng/crates.io-index"\nchecksum = "«h64»"',
        "GEM\n  remote: https://rubygems.org/\n  specs:\n    bcrypt («ver»)\n    jwt («ver»)\nCHECKSUMS\n"
            "  bcrypt («ver») sha256=«h64»",
        "added «20..900» packages, and audited «900..2000» packages in «2..40»s\n2 moderate severity vulnerabilities\n"
            "  GHSA-«l4»-«l4»-«l4»\n  CVE-2024-«n5»",
        "«svc»@«ver»:\n    resolution: {integrity: sha512-«b86»==}\n    engines: {node: '>=14'}",
        "Collecting keyring==«ver»\n  Downloading keyring-«ver»-py3-none-any.whl (38 kB)\n"
            "Successfully installed keyring SecretStorage tiktoken"]),
    "c_logs": _Group({"uuid": "«uuid»", "build": "«h8»"}, _shown("«it»", "tail app.log"), [
        '«ip» - - [12/Mar/2025:«time» +0000] "GET /login HTTP/1.1" «200|302|404» «n4» "-" "Mozilla/5.0 (X11; Linux '
            'x86_64) AppleWebKit/537.36 Chrome/124.0.0.0"\n«ip» - - [12/Mar/2025:«time» +0000] "GET /password/reset '
            'HTTP/1.1" «200|302|404» «n4» "-" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/124.0.0.0"\n'
            '«ip» - - [12/Mar/2025:«time» +0000] "GET /api/orders/«uuid» HTTP/1.1" «200|302|404» «n4» "-" '
            '"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/124.0.0.0"\n«ip» - - [12/Mar/2025:«time» '
            '+0000] "GET /static/js/main.«build».js HTTP/1.1" «200|302|404» «n4» "-" "Mozilla/5.0 (X11; Linux x86_64) '
            'AppleWebKit/537.36 Chrome/124.0.0.0"',
        "«iso_ms»  INFO 1 --- [nio-8080-exec-«1..9»] o.s.s.web.DefaultSecurityFilterChain     : Will secure any "
            "request with [UsernamePasswordAuthenticationFilter, BearerTokenAuthenticationFilter]",
        'Started POST "/users/sign_in" for «ip» at «date» «time» +0000\nProcessing by SessionsController#create as '
            'HTML\n  Parameters: {"user"=>{"login"=>"ingrid", "password"=>"[FILTERED]"}, "commit"=>"Log in"}\n'
            "Completed 401 Unauthorized in «20..300»ms",
        "Mar 12 «time» web-01 sshd[«n5»]: Failed password for invalid user admin from «ip» port «n5» ssh2",
        "Mar 12 «time» bastion sshd[«n5»]: Accepted publickey for deploy from «ip» port «n5» ssh2: ED25519 "
            "SHA256:«b43»",
        '«date» «time» UTC [«n4»] FATAL:  password authentication failed for user "app"\n«date» «time» UTC [«n4»] '
            'DETAIL:  Connection matched pg_hba.conf line 95: "host all all all scram-sha-256"',
        '{"time":"«iso_ms»","level":"INFO","msg":"request","trace_id":"«h32»","span_id":"«h16»","request_id":"«uuid»'
            '","path":"/v1/tokens/count","status":200,"dur_ms":«1..900»}',
        "[«date» «time»,«100..999»: INFO/ForkPoolWorker-«1..8»] Task app.tasks.rotate_tokens[«uuid»] succeeded in "
            "0.«n6»s: None",
        '[«iso_ms»] "POST /oauth/token HTTP/2" 200 - via_upstream - "-" 96 1423 «5..90» "«ip»" "okhttp/4.12.0" '
            '"«uuid»" "auth.«domain»" "«ip»:8080"',
        "«n5»:M 12 Mar 2025 «time» * Background saving started by pid «n4»\n# Warning: no password is set, protected "
            "mode is enabled",
        "[«date» «time»] WARN [Consumer clientId=consumer-«svc»-1, groupId=«svc»] Offset commit failed on partition "
            "«svc»-«0..11» at offset «n8»",
        'Traceback (most recent call last):\n  File "/app/auth/tokens.py", line «5..300», in decode\n'
            "    payload = jwt.decode(token, key, algorithms=['RS256'])\njwt.exceptions.ExpiredSignatureError: "
            "Signature has expired",
        "java.lang.IllegalArgumentException: password must not be null\n\tat com.«org».auth.PasswordEncoder.en"
            "code(PasswordEncoder.java:«10..90»)\n\tat org.springframework.security.authentication.dao.DaoAuthentic"
            "ationProvider.additionalAuthenticationChecks(DaoAuthenticationProvider.java:79)\n\t... «10..60» more",
        "TypeError: Cannot read properties of undefined (reading 'token')\n    at getToken "
            "(/app/src/lib/session.js:«1..99»:23)\n    at process.processTicksAndRejections "
            "(node:internal/process/task_queues:95:5)",
        "panic: runtime error: invalid memory address or nil pointer dereference\n[signal SIGSEGV: segmentation "
            "violation code=0x1 addr=0x0 pc=0x«h6»]\ngoroutine «1..90» [running]:\nmain.(*TokenStore).Get(0xc000«h6», "
            "{0xc000«h6», 0x20})",
        "System.Security.Authentication.AuthenticationException: The remote certificate is invalid\n"
            "   at Api.Controllers.TokenController.Post(LoginRequest request) in /src/Api/TokenController.cs:line "
            "«10..99»\nCorrelationId: «uuid»",
        '«iso» level=error ts=«epoch» caller=main.go:«10..300» msg="API key missing in request" method=GET '
            "path=/v2/usage",
        "type=USER_AUTH msg=audit(«epoch».«n3»:«n4»): pid=«n4» uid=0 auid=4294967295 ses=4294967295 "
            "msg='op=PAM:authentication acct=\"root\" exe=\"/usr/sbin/sshd\" res=failed'",
        "[«n4».«n6»] IPTables-Dropped: IN=eth0 OUT= MAC=" + "«h2»:" * 13 +
            "«h2» SRC=«ip» DST=«ip» LEN=60 ID=«n5» PROTO=TCP SPT=«n5» DPT=22",
        'time="«iso»" level=info msg="GET /v2/«svc»/blobs/sha256:«h64»" http.response.status=200',
        "[«time»] vite: dev server running, page reload src/components/PasswordInput.tsx",
        "DEBUG:openai:response usage={'prompt_tokens': «100..9000», 'completion_tokens': «10..900», 'total_tokens': "
            "«100..9999»} request_id=req_«h32»",
        "EventID: 4625  An account failed to log on.  Logon Type: 3  Failure Reason: Unknown user name or bad "
            "password.  Status: 0xC000006D  Workstation: WIN-«u11»",
        "«iso» WARN vault: token renewal failed, retrying in 30s accessor=hidden ttl=3600 "
            "lease_id=database/creds/«svc»/«w24»"]),
    "c_code": _Group({}, _shown("«it»", "cat src/auth.py"), [
        "def login(username: str, password: str) -> Token:\n    user = users.by_name(username)\n"
            '    if user is None or not verify(password, user.password_hash):\n        raise AuthError("Wrong user '
            'name or password")\n    return Token(secrets.token_urlsafe(32), expires_in=3600)',
        "const password = process.env.DB_PASSWORD;\nif (!password) throw new Error('DB_PASSWORD is not set');\n"
            "const token = await getToken({ audience: AUDIENCE });\nheaders.set('Authorization', `Bearer ${token}`);",
        'func NewClient(apiKey string) *Client {\n\tif apiKey == "" {\n\t\tapiKey = os.Getenv("API_KEY")\n\t}\n'
            "\treturn &Client{apiKey: apiKey, secret: cfg.Secret}\n}",
        '@Value("${spring.datasource.password}")\nprivate String password;\n\npublic void setPassword(String '
            "password) { this.password = passwordEncoder.encode(password); }",
        "<?php\n$password = $_POST['password'] ?? '';\nif (!password_verify($password, $user->password_hash)) {\n"
            "    $errors['password'] = __('auth.failed');\n}",
        "class User < ApplicationRecord\n  has_secure_password\n  validates :password, length: { minimum: 12 }, if: "
            ":password_digest_changed?\n  has_secure_token :api_token\nend",
        'var key = Environment.GetEnvironmentVariable("API_KEY");\nbuilder.Services.Configure<JwtOptions>(configura'
            'tion.GetSection("Jwt"));\noptions.Password.RequiredLength = 12;\noptions.Password.RequireDigit = true;',
        'let token = std::env::var("GITHUB_TOKEN").expect("GITHUB_TOKEN not set");\nlet secret: SecretString = '
            "SecretString::new(token);\nclient.bearer_auth(secret.expose_secret())",
        '<PasswordInput\n  label="Password"\n  placeholder="Enter your password"\n  value={password}\n'
            '  onChange={(e) => setPassword(e.target.value)}\n  autoComplete="current-password"\n/>',
        "tokens = tokenizer.encode(text)\nprint(len(tokens), tokens[:5])  # [«10..50000», «10..50000», «10..50000», "
            '«10..50000», «10..50000»]\nmax_tokens = 4096 - len(tokens)\neos_token = "<|endoftext|>"\n'
            "pad_token_id = tokenizer.eos_token_id",
        "API_KEY = os.environ.get('API_KEY')\npassword = getpass.getpass('Password: ')\ntoken = "
            "request.headers['X-Auth-Token']\nsecret = config['oauth']['client_secret']\nkey = f'{user_id}:{page}'",
        'def test_password_too_short(client):\n    resp = client.post("/signup", json={"name": "ada", "password": '
            '""})\n    assert resp.status_code == 422\n    assert resp.json()["field"] == "password"',
        "enum TokenType { ACCESS = 'access', REFRESH = 'refresh' }\ninterface Credentials { username: string; "
            "password: string; }\ntype ApiKey = string & { readonly brand: unique symbol };",
        "for key, value in sorted(items.items()):\n    cache_key = hashlib.sha256(key.encode()).hexdigest()\n"
            "    assert cache_key != '«h64»'\n    store.set(cache_key, value, ttl=300)",
        '#!/usr/bin/env bash\nset -euo pipefail\nread -rsp "Password: " PASSWORD\nTOKEN=$(curl -fsS -u '
            '"$USER:$PASSWORD" "$URL/token" | jq -r .access_token)\ncurl -H "Authorization: Bearer $TOKEN" "$URL/me"\n'
            "unset PASSWORD TOKEN",
        'public static final String PASSWORD_PARAM = "password";\npublic static final String TOKEN_HEADER = '
            '"X-CSRF-TOKEN";\nprivate static final String KEY_PREFIX = "session:";\nAssert.hasText(password, '
            '"password must not be empty");']),
    "c_placeholders": _Group({}, _shown("«it»", "cat .env.example"), [
        "# copy to .env and fill in\nSTRIPE_SECRET_KEY=sk_" "live_xxxxxxxxxxxxxxxx\nOPENAI_API_KEY=<your-api-key>\n"
            "DB_PASSWORD=<db-password>\nJWT_SECRET=",
        '```bash\nexport API_TOKEN=YOUR_API_TOKEN\ncurl -H "Authorization: Bearer <TOKEN>" '
            "https://api.«domain»/v1/me\n```\nReplace `<TOKEN>` with the token from the settings page.",
        "database:\n  user: ${DB_USER}\n  password: ${DB_PASSWORD:?missing}\n  url: postgresql://${DB_USER}:"
            "${DB_PASSWORD}@db:5432/app",
        "[default]\naws_access_key_id = YOUR_ACCESS_KEY_ID\naws_secret_access_key = YOUR_SECRET_ACCESS_KEY",
        "//registry.npmjs.org/:_authToken=${NPM_TOKEN}",
        "| Variable | Description | Default |\n|---|---|---|\n| `API_KEY` | Key of the API, see the console | – |\n"  # noqa: RUF001
            "| `SMTP_PASSWORD` | Password of the mail relay | `****` |\n| `TOKEN_TTL` | Life of a token in seconds | "
            "`3600` |",
        'db_password = "{{ vault_db_password }}"\napi_key: {{ .Values.apiKey | quote }}\ntoken: !vault |\n'
            "  # see group_vars", _json({"ConnectionStrings": {"Default": "Server=localhost;Database=app;User "
            "Id=<user>;Password=<password>;"}, "ApiKey": "#{ApiKey}#"}),
        'Set your key:\n\n    client = Client(api_key="YOUR_API_KEY")\n\nor pass `api_key=os.environ["API_KEY"]`.',
        "password: ********\ntoken: [REDACTED]\napi_key: (hidden)\nsecret: <redacted>"]),
    "c_prose": _Group({"prose": _PROSE, "message": _MESSAGES}, _BARE, ["«message»"], len(_MESSAGES)),
    "c_customer_chat": _Group({"order_number": "«order_number»"}, _SAID, [
        "Where is my order «order_number»? Tracking says «n12» since «date».",
        "Hi, invoice INV-2025-«n5» shows «price» EUR but I paid «price» EUR.",
        "Meine Bestellung «order_number» ist nicht angekommen, Sendungsnummer 00340434«d12».",
        "Ma commande n° «order_number» du «1..28»/03/2025 n'est pas arrivée.",
        "Mi pedido «order_number» llegó roto, número de serie SN-«u10».",
        "The serial number is «u12», firmware «ver», error code E-«n4».",
        "注文番号 «order_number» の配送状況を教えてください。",
        "I'd like to move my booking «u6» to flight LH«n3» on «date».", "Can you cancel subscription sub_1«w23»?",
        "our VAT id is DE«n9» and the PO is 45«n8»", "We're at 52.5«n4», 13.4«n4» — gate 4, plot «n3».",
        "Policy number «n9», claim «date/year»-«n7», thanks!"]),
    "c_llm_agent": _Group({}, _BARE, [{"id": "msg_01«w22»", "type": "message", "model": "claude-sonnet-4-20250514",
            "usage": {"input_tokens": "№«100..9000»", "cache_read_input_tokens": "№«0..9000»",
            "output_tokens": "№«10..900»"}, "stop_reason": "tool_use"},
        {"id": "chatcmpl-«w29»", "object": "chat.completion", "system_fingerprint": "fp_«h10»",
            "usage": {"prompt_tokens": "№«1..999»", "completion_tokens": "№«1..999»"},
            "choices": [{"finish_reason": "stop"}]},
        {"type": "tool_use", "id": "toolu_01«w22»", "name": "search_docs", "input": {"query": "how to rotate api key"}},
        {"tools": [{"name": "login", "description": "Logs in with a user name and a password",
            "inputSchema": {"type": "object", "properties": {"username": {"type": "string"},
            "password": {"type": "string", "format": "password"}}, "required": ["username", "password"]}}]},
        {"role": "assistant", "tool_calls": [{"id": "call_«w24»", "type": "function",
            "function": {"name": "get_order", "arguments": _json({"order_id": "«n7»"}, None)}}]},
        {"embedding": ["№«unit»", "№«unit»", "№«unit»", "№«unit»", "№«unit»", "№«unit»", "№«unit»", "№«unit»",
            "№«unit»", "№«unit»", "№«unit»", "№«unit»"], "index": 0, "object": "embedding"},
        {"model": "gpt-4o", "max_tokens": 1024, "temperature": 0.2, "stop": ["</s>"], "logit_bias": {"«n5»": -100}},
        {"session_summary": "User asked how to store a password. I explained bcrypt and argon2.", "turns": "№«2..30»"},
        _shown('- heading "Sign in" [level=1] [ref=e3]\n- textbox "Email address" [ref=e7]\n'
            '- textbox "Password" [ref=e12]\n- button "Log in" [ref=e15] [cursor=pointer]\n'
            '- link "Forgot password?" [ref=e16]:\n  - /url: /password/reset'),
        {"tool": "browser_click", "arguments": {"element": "Forgot password link", "ref": "e«n3»"}},
        {"element": "Search box", "ref": "e21", "text": "best password manager «date/year»"},
        {"thinking": "The user wants to know which token is invalid. I should look at the logs first.",
            "signature_valid": True}, {"todos": [{"content": "Remove hard-coded password", "status": "pending"},
            {"content": "Read token from env", "status": "in_progress"}]},
        {"command": "grep -rn \"api_key\\|password\\|secret\" src/ --include='*.py' | head -20",
            "description": "Find hard-coded secrets"}]),
    "c_grep_results": _Group({}, _shown("«it»", "grep -rn password src"), [
        "src/auth.py:«1..400»:    password = form.cleaned_data['password']\nsrc/client.py:«1..400»:    self.api_key = "
            "api_key or os.getenv('API_KEY')\nsrc/tokens.py:«1..400»:def revoke_token(token_id: UUID) -> None:",
        "config/database.yml:8:  password: <%= ENV['DATABASE_PASSWORD'] %>\nconfig/credentials.yml.enc: binary file "
            "matches",
        "README.md:31:Set `SECRET_KEY` in your environment.\ndocs/tokens.md:4:# Token rotation\n"
            "Makefile:12:\t@test -n \"$(API_KEY)\" || (echo 'API_KEY is not set'; exit 1)",
        "./src/password.ts\n./src/password.test.ts\n./src/components/TokenList.tsx\n./dist/assets/index-«w8».js\n"
            "./dist/assets/index-«w8».css",
        "total 48\n-rw--------- 1 app app «n4» Mar 12 10:4«0..9» id_ed25519\n-rw--------- 1 app app «n4» Mar 12 "
            "10:4«0..9» known_hosts\n-rw--------- 1 app app «n4» Mar 12 10:4«0..9» .env\n-rw--------- 1 app app «n4» "
            "Mar 12 10:4«0..9» credentials",
        'Finding:     password = "REDACTED"\nRuleID:      generic-api-key\nEntropy:     3.84\n'
            "File:        src/old.py\nCommit:      «h40»\nFingerprint: «h40»:src/old.py:generic-api-key:«1..99»",
        "warning: Possible hardcoded password assigned to argument: 'password'  (S106)\n  --> "
            "tests/test_login.py:«10..99»:17\nFound 1 error.",
        "src/api.ts(14,7): error TS2345: Argument of type 'string | undefined' is not assignable to parameter of "
            "type 'string'.\n  const key = process.env.API_KEY;\nauth.py:22: error: Item \"None\" of \"Token | "
            'None" has no attribute "value"  [union-attr]']),
    "c_sql": _Group({}, _shown("«it»", "cat schema.sql"), [
        "CREATE TABLE users (\n  id BIGSERIAL PRIMARY KEY,\n  login VARCHAR(64) NOT NULL UNIQUE,\n"
            "  password_hash VARCHAR(255) NOT NULL,\n  reset_token VARCHAR(64),\n  api_key_id UUID REFERENCES "
            "api_keys(id),\n  created_at TIMESTAMPTZ DEFAULT now()\n);",
        "ALTER TABLE sessions ADD COLUMN token_expires_at timestamptz;\nCREATE UNIQUE INDEX idx_tokens_key ON tokens "
            "(key, tenant_id);",
        "SELECT u.id, u.login, count(t.id) AS tokens\nFROM users u LEFT JOIN api_tokens t ON t.user_id = u.id\n"
            "WHERE t.revoked_at IS NULL GROUP BY 1, 2 HAVING count(t.id) > 3;",
        "Index Scan using tokens_pkey on tokens  (cost=0.43..8.45 rows=1 width=72) (actual time=0.021..0.022 rows=1 "
            "loops=1)\n  Index Cond: (id = '«uuid»'::uuid)\nPlanning Time: 0.114 ms",
        " id | status  | total   | created_at\n----+---------+---------+---------------------" +
            "\n «1..999» | shipped | «price» | «date» «time»" * 3 + "\n(3 rows)",
        _json({"rows": [{"column_name": "password_hash", "data_type": "character varying"},
            {"column_name": "token", "data_type": "uuid"}], "rowCount": 2}),
        "class CreateApiTokens < ActiveRecord::Migration[7.1]\n  def change\n    create_table :api_tokens do |t|\n"
            "      t.string :token_digest, null: false\n      t.datetime :expires_at\n    end\n  end\nend",
        'model User {\n  id           String  @id @default(uuid())\n  passwordHash String  @map("password_hash")\n'
            "  tokens       Token[]\n}"]),
    "c_web": _Group({}, _shown("«it»", "cat dist/index.html"), [
        ".btn-primary{background:#«h6»;border-radius:4px;padding:8px 16px}.card{box-shadow:0 1px 2px "
            "rgba(0,0,0,.2)}.icon{background:url(/img/logo@2x.png)}@media(max-width:768px){.password-field{wi"
            "dth:100%}}",
        '!function(e,t){"object"==typeof exports?module.exports=t():e.__bundle=t()}(this,(function(){var '
            'n="«h20»",o={password:"",token:null};return o}));\n//# sourceMappingURL=main.«h8».js.map',
        '<script src="https://cdn.jsdelivr.net/npm/bootstrap@5.3.3/dist/js/bootstrap.min.js" integrity="sha384-«b64»" '
            'crossorigin="anonymous"></script>',
        '<form action="/login" method="post"><label for="pw">Password</label><input type="password" id="pw" '
            'name="password" placeholder="Password" autocomplete="current-password" required><button>Sign '
            "in</button></form>",
        '<img alt="logo" src="data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA«b220»=="/>',
        '<path d="M«1..20» «1..20»c0-1.1.9-2 2-2h«2..12»v4.5l-3.25 2.1z" fill="#«h6»"/>',
        _json({"main.js": "/static/js/main.«h20».js", "main.css": "/static/css/main.«h20».css"}),
        "<url><loc>https://«domain»/blog/password-managers-2025</loc><lastmod>«date»</lastmod><priority>0.8<"
            "/priority></url>",
        '<meta property="og:image" content="https://cdn.«domain»/«h32»_1200x630@2x.jpg"/><link rel="stylesheet" '
            'href="/assets/app-«h10».css"/>', _json({"password": {"label": "Passwort", "forgot": "Passwort vergessen?",
            "tooShort": "Das Passwort ist zu kurz"}, "token": {"expired": "Ihre Sitzung ist abgelaufen"},
            "apiKeys": {"create": "Neuer Schlüssel", "copy": "Kopieren"}})]),
    "c_http": _Group({}, _BARE, [_shown("HTTP/2 200\ncontent-type: application/json; charset=utf-8\n"
            'etag: W/"«h4»-«b27»"\nx-request-id: «uuid»\ncf-ray: «h16»-FRA\nx-ratelimit-remaining: 4999\n'
            "strict-transport-security: max-age=31536000\nx-amz-id-2: «b76»=\nx-amz-request-id: «u16»"),
        _shown("GET /v1/«svc»?limit=20&starting_after=cus_«w14» HTTP/1.1\nHost: api.«domain»\n"
            'Accept: application/json\nIf-None-Match: "«h32»"\nCookie: theme=dark; lang=de\n'
            "traceparent: 00-«h32»-«h16»-01"), _shown("HTTP/1.1 401 Unauthorized\nWWW-Authenticate: Bearer "
            'realm="api", error="invalid_token", error_description="The access token expired"\nContent-Length: 0'),
        {"status": 403, "error": "forbidden", "message": "API key does not have the scope orders:read",
            "request_id": "«uuid»"}, {"data": [{"id": "«n6»"}], "next_cursor": _url_json({"id": "№«n7»", "d": "next"}),
            "prev_cursor": None, "total": "№«10..900»"}, _shown("< HTTP/1.1 407 Proxy Authentication Required\n"
            '< Proxy-Authenticate: Basic realm="corp"\n< Via: 1.1 «h32».cloudfront.net (CloudFront)\n'
            "< X-Amz-Cf-Id: «s54»=="), {"url": "https://www.googleapis.com/calendar/v3/calendars/primary/eve"
            "nts?syncToken=CP«w12»GAU=&maxResults=50", "status": 200},
        _shown("content-security-policy: script-src 'self' 'nonce-«b22»==' 'sha256-«b43»='; object-src 'none'")]),
    "c_api_specs": _Group({}, _shown("«it»", "cat openapi.yaml"), [
        "paths:\n  /login:\n    post:\n      requestBody:\n        content:\n          application/json:\n"
            "            schema:\n              type: object\n              properties:\n                username: "
            "{type: string}\n                password: {type: string, format: password, minLength: 12}\ncomponents:\n"
            "  securitySchemes:\n    apiKey: {type: apiKey, in: header, name: X-API-Key}\n    bearer: {type: http, "
            "scheme: bearer, bearerFormat: JWT}",
        "type Mutation {\n  login(username: String!, password: String!): AuthPayload!\n  createApiKey(name: String!, "
            "scopes: [Scope!]!): ApiKey!\n}\ntype AuthPayload { token: String! expiresAt: DateTime! }",
        "message LoginRequest {\n  string username = 1;\n  string password = 2 [debug_redact = true];\n}\n"
            "message LoginReply { string access_token = 1; int64 expires_in = 2; }",
        _json({"$schema": "https://json-schema.org/draft/2020-12/schema", "properties": {"password": {"type": "string",
            "description": "At least 12 characters", "writeOnly": True}, "token": {"type": ["string", "null"]},
            "secret": {"$ref": "#/$defs/SecretRef"}}}),
        "### Authentication\n\nSend your key in the `X-API-Key` header. Keys begin with `sk_" "live_` in production "
            "and `sk_" "test_` in the sandbox.\n\n| Header | Value |\n|---|---|\n| `Authorization` | `Bearer "
            "{access_token}` |", _json({"openapi": "3.1.0", "info": {"title": "Token service", "version": "«ver»"},
            "security": [{"ApiKeyAuth": []}]}),
        "## POST /oauth/token\n\n- `grant_type`: `client_credentials`\n- `client_id`: your client id\n"
            "- `client_secret`: your client secret\n\nReturns `access_token`, `expires_in` and `refresh_token`.",
        "Usage: tool login [OPTIONS]\n\nOptions:\n  -u, --username TEXT   User name\n  -p, --password TEXT   "
            "Password (prompted for if left out)\n      --token TEXT      API token  [env: TOOL_TOKEN]\n"
            "  -k, --key-file PATH   Path of the private key"]),
    "c_keys_public": _Group({}, _shown("«it»", "cat id_ed25519.pub"), [
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI«b43» «first»@laptop",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ«b500»= deploy@ci",
        "-----BEGIN CERTIFICATE-----\nMIIF«b60»" + "\n«b64»" * 18 + "\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA«b20»\n«b64»\n«b64»\n«b64»\n«b64»\n"
            "«b64»\n-----END PUBLIC KEY-----",
        _json({"keys": [{"kty": "RSA", "use": "sig", "kid": "«s27»", "n": "«s342»", "e": "AQAB", "alg": "RS256"}]}),
        "256 SHA256:«b43» deploy key (ED25519)",
        "github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI«b43»\n|1|«b27»=|«b27»= ecdsa-sha2-nistp256 "
            "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBB«b86»=",
        "pub   rsa4096 2023-01-04 [SC]\n      «u4»«H36»\nsub   rsa4096 2023-01-04 [E]",
        "Certificate:\n    Serial Number: " + "«h2»:" * 15 +
            "«h2»\n    Issuer: C=US, O=Let's Encrypt, CN=R11\n    X509v3 Subject Key Identifier: " + "«H2»:" * 19 +
            "«H2»",
        "interface: wg0\n  public key: «bytes32»\n  private key: (hidden)\n  listening port: 51820\n\n"
            "peer: «bytes32»\n  allowed ips: 10.8.0.2/32",
        "certificates:\n  certificate-authority-data: «authority»\n  server: https://10.0.0.1:6443",
        "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQ«b170»IDAQAB"]),
    "c_ids": _Group({}, _BARE, [{"ids": ["«uuid»", "«uuid»", "«uuid»", "«uuid»"]},
        {"_id": "«h24»", "owner": "«h24»", "__v": 0}, {"ulid": "01J«k23»", "ksuid": "2«w26»", "nanoid": "«s21»"},
        {"snowflake": "1«d18»", "guild_id": "1«d18»", "content": "token bot is down"},
        {"records": [{"id": "rec«w14»", "fields": {"Name": "Keynote", "Attachments": [{"id": "att«w14»"}]}}],
            "offset": "itr«w14»/rec«w14»"},
        {"object": "page", "id": "«uuid»", "url": "https://www.notion.so/Password-policy-«h32»"},
        {"url": "https://www.figma.com/design/«w22»/Login-screens?node-id=«1..99»-«100..999»"},
        {"url": "https://docs.google.com/document/d/1«s43»/edit"},
        {"videoId": "«s11»", "channelId": "UC«s22»", "etag": "«s27»"},
        {"tx": "0x«h64»", "from": "0x«h40»", "to": "0x«h40»", "gasUsed": "0x5208", "blockNumber": "№«n8»"},
        {"cid": "Qm«B44»", "address": "bc1q«q38»"}, {"flags": {"new-checkout": True, "password-less-login": False},
            "env": "«h24»", "version": "№«1..99»", "salt": "«h32»", "seed": "№«1..9999»"},
        {"anonymousId": "«uuid»", "event": "Password Reset Clicked", "messageId": "ajs-next-«h32»",
            "timestamp": "«iso_ms»"}, {"event_id": "«h32»", "platform": "python", "release": "«svc»@«ver»",
            "exception": {"values": [{"type": "InvalidToken", "value": "token expired"}]},
            "contexts": {"trace": {"trace_id": "«h32»", "span_id": "«h16»"}}}]),
    "c_numbers": _Group({}, _SHOWN, [
        "ISBN 978-3-16-«n6»-«d1»\nISBN-10: 0-306-40615-2\nDOI 10.«n4»/s«n5»-0«15..24»-«n5»-«d1»",
        "USt-IdNr.: DE«n9»\nRechnungsnr. RE-2025-«n5»\nBetrag: «1..9».«n3»,«d2» €\nFällig am «10..28».03.2025",
        "«date»,«n6»,«SHIPPED|OPEN»,«price»,EUR\n" * 4 + "«date»,«n6»,«SHIPPED|OPEN»,«price»,EUR",
        "metric\tp50\tp95\tcount" + "\n«svc».latency_ms\t«price»\t«price»\t«n7»" * 4,
        "UPS 1Z«u6»«n10»\nFedEx «id12»\nDHL «n10»\nUSPS 9400 1«d3» «d4» «d4» «d4» «d2»",
        '# TYPE http_requests_total counter\nhttp_requests_total{method="post",path="/token",code="200"} «n7» '
            "«epoch»000\nprocess_start_time_seconds «epoch».«d2»",
        "| SKU | EAN | Price |\n|---|---|---|" + "\n| KB-«n4» | «ean» | «price» |" * 3,
        "VIN WVWZZZ1KZ«u1»W«n6», plate B-«u2» «n4», IMEI «imei»",
        "«h64»  app.tar.gz\n«h64»  tokens.bin\n«h64»  keys.txt.asc",
        "lat=48.8«n5» lon=2.3«n5» alt=«n3» ts=«epoch» hdop=0.9",
        "Symbol,Open,High,Low,Close,Volume" + "\nACME,«price»,«price»,«price»,«price»,«n8»" * 4,
        "Inventory 2025-03\nPart no. «n4»-«n4»-«n3»\nBatch «n8»\nCustoms tariff no. 8471 60 «n2»\n"
            "ISIN DE000«u6»«d1»"]),
    "c_system": _Group({}, _shown("«it»", "ps aux"), [
        "USER   PID %CPU %MEM COMMAND\nroot   «n4»  0.1  0.3 /usr/sbin/sshd -D\napp    «n5»  4.2  2.8 node "
            "dist/main.js --port 3000\npg     «n4»  0.9  1.0 postgres: app orders «ip»(«n5») idle",
        "NAME   UUID                                 MOUNTPOINT\nsda1   «uuid» /\nsda2   «uuid» /var",
        "2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500\n    link/ether «h2»:«h2»:«h2»:«h2»:«h2»:«h2» brd "
            "ff:ff:ff:ff:ff:ff\n    inet «ip»/24 scope global eth0\n    inet6 fe80::«h4»:«h4»:«h4»:«h4»/64 scope link",
        "CONTAINER ID   IMAGE          COMMAND                  PORTS" +
            '\n«h12»   «svc»:«ver»   "docker-entrypoint.s…"   0.0.0.0:«n4»->5432/tcp' * 3,
        "[Unit]\nDescription=«svc» API\n[Service]\nEnvironmentFile=/etc/app/secrets.env\nExecStart=/usr/bin/node "
            "/srv/app/main.js\nLoadCredential=db-password:/etc/credstore/db-password",
        "server {\n  listen 443 ssl;\n  server_name «domain»;\n  ssl_certificate     /etc/ssl/certs/site.pem;\n"
            "  ssl_certificate_key /etc/ssl/private/site.key;\n  auth_basic_user_file /etc/nginx/.htpasswd;\n}",
        "FROM node:20-alpine@sha256:«h64»\nRUN --mount=type=secret,id=npmrc,target=/root/.npmrc npm ci\n"
            "ARG BUILD_SHA\nENV NODE_ENV=production",
        "*/5 * * * * /usr/local/bin/rotate-tokens.sh >> /var/log/rotate.log 2>&1\n0 3 * * 0 pg_dump --no-password -h "
            "db orders | gzip > /backup/orders.gz",
        "services:\n  api:\n    image: ghcr.io/«org»/«svc»:«ver»\n    environment:\n      DB_PASSWORD_FILE: "
            "/run/secrets/db_password\n      API_KEY: ${API_KEY}\nsecrets:\n  db_password:\n    external: true",
        '«domain». 300 IN TXT "google-site-verification=«s43»"\n«domain». 300 IN TXT "v=spf1 include:_spf.google.com '
            '~all"\n«domain». 300 IN A «ip»',
        "Host bastion\n  HostName «ip»\n  User deploy\n  IdentityFile ~/.ssh/id_ed25519\n  PasswordAuthentication no",
        "deploy@«svc»-01:~$ sudo systemctl status «svc»\n[sudo] password for deploy:\n● «svc».service - loaded "
            "active running\ndeploy@«svc»-01:~$"]),
    "c_config": _Group({}, _shown("«it»", "cat application.yml"), [
        "server:\n  port: 8080\nspring:\n  datasource:\n    url: jdbc:postgresql://«host»:5432/«svc»\n"
            "    username: app\n    password: ${DB_PASSWORD}\n  jpa.hibernate.ddl-auto: validate",
        _json({"Logging": {"LogLevel": {"Default": "Information"}}, "Jwt": {"Issuer": "https://auth.«domain»",
            "ExpiryMinutes": 60, "KeyVaultName": "kv-prod"}, "AllowedHosts": "*"}),
        '<add key="PasswordMinLength" value="12" />\n<add key="TokenLifetime" value="00:20:00" />\n'
            '<authentication mode="Forms"><forms loginUrl="~/Account/Login" timeout="2880" /></authentication>',
        "redis://cache.«domain»:6379/0\npostgresql://«host»:5432/«svc»\nmongodb://localhost:27017/app",
        "NODE_ENV=production\nPORT=3000\nLOG_LEVEL=info\nS3_BUCKET=«org»-uploads\nSENTRY_RELEASE=«h40»\n"
            "PASSWORD_MIN_LENGTH=12\nTOKEN_TTL_SECONDS=3600\nENABLE_API_KEYS=true",
        _json({"auths": {"ghcr.io": {}, "registry.«domain»": {}}, "credsStore": "osxkeychain",
            "currentContext": "desktop-linux"}),
        "apiVersion: v1\nkind: Config\nusers:\n- name: eks\n  user:\n    exec:\n      apiVersion: "
            "client.authentication.k8s.io/v1beta1\n      command: aws\n      args: [eks, get-token, --cluster-name, "
            "prod]", _json({"mcpServers": {"github": {"command": "npx", "args": ["-y",
            "@modelcontextprotocol/server-github"], "env": {"GITHUB_TOKEN": "${GITHUB_TOKEN}"}}}}),
        '[tool.ruff.lint]\nselect = ["E", "F", "S105", "S106"]\n[tool.pytest.ini_options]\naddopts = "-q"\n'
            'version = "«ver»"', _json({"editor.fontSize": 13, "git.enableSmartCommit": True,
            "terminal.integrated.env.osx": {"EDITOR": "vim"}, "cSpell.words": ["apikey", "htpasswd", "keyring",
            "tokenizer"]})]),
    "c_docs_office": _Group({}, _BARE, [{"summary": "Key account review", "start": {"dateTime": "«iso»"},
            "end": {"dateTime": "«iso»"}, "location": "Room 4.12", "iCalUID": "«h26»", "etag": '"«id16»"',
            "hangoutLink": "https://meet.google.com/«c3»-«c4»-«c3»"}, _shown("# Minutes, «date»\n\n- «name»: "
            "password rotation finished for «svc»\n- «name»: token costs rose by «2..40» %\n"
            "- Decision: API keys expire after 90 days\n- Next meeting: Thursday 10:00"),
        _shown("## Changelog\n\n### «ver» («date»)\n- feat(auth): passwordless login\n- fix(token): refresh before "
            "expiry («h7»)\n- security: mask secrets in logs"), _shown("<h2>Change your password</h2>\n<ol><li>Open "
            "<b>Settings</b></li><li>Choose <b>Security</b></li><li>Enter the new password twice</li></ol>"),
        _shown("Invoice 2025-«n5»\n«company» GmbH, Lindenstr. «1..99», 10969 Berlin\n1 x Keyboard  «price» EUR\n"
            "19 % VAT  «price» EUR\nVAT ID DE«n9»"), _shown("[«date» «time»] «name»: did you reset the password?\n"
            "[«date» «time»] «name»: yes, token works now, thanks 🙌"),
        {"ok": True, "messages": [{"type": "message", "user": "U0«u9»",
            "text": "deploy of <https://github.com|auth-service> done, tokens rotated :key:", "ts": "«epoch».«d6»",
            "client_msg_id": "«uuid»"}]}, _shown("Runbook: expired signing key\n1. Open the vault UI and create a "
            "new version of `jwt-signing-key`\n2. Restart `auth-api`\n3. Check `token_verify_errors_total` in "
            "Grafana\n4. Delete the old version after 24 h")]),
    "c_blobs": _Group({}, _BARE, [{"data": "H4sI«b300»AAA=", "encoding": "gzip+base64"},
        {"image": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo«b420»="}},
        {"pdf": "JVBERi0xLj«b360»==", "pages": 2},
        {"message": {"data": "«bytes90»", "messageId": "«id16»", "attributes": {"type": "order.created"}}},
        {"checkpoint": "«bytes48»", "offset": "№«n9»"}, {"font": "d09GMgABAAAAA«b200»", "format": "woff2"},
        _shown("00000000: «h4» «h4» «h4» «h4» «h4» «h4» «h4» «h4»\n00000010: «h4» «h4» «h4» «h4» «h4» «h4» «h4» «h4»\n"
            "00000020: «h4» «h4» «h4» «h4» «h4» «h4» «h4» «h4»\n00000030: «h4» «h4» «h4» «h4» «h4» «h4» «h4» «h4»",
            "xxd data.bin"),
        {"mappings": ";AAAA,SAASA,GAAGC,KACV,OAAO«M120»", "version": 3, "sources": ["src/password.ts"]},
        {"manifest": {"schemaVersion": 2, "config": {"digest": "sha256:«h64»"}, "layers": [{"digest": "sha256:«h64»",
            "size": "№«n8»"}, {"digest": "sha256:«h64»", "size": "№«n8»"}, {"digest": "sha256:«h64»",
            "size": "№«n8»"}]}}, {"protobuf": "«bytes60»", "schema_id": "№«1..999»", "key": "«svc»-«n6»"}]),
    "c_tool_arguments": _Group({}, _BARE, [{"command": "kubectl get secret «svc»-db -n prod -o name"},
        {"command": "openssl rand -hex 32 > /run/secrets/session_key && chmod 600 /run/secrets/session_key"},
        {"path": "/etc/app/credentials.json", "old_str": '"token": ""', "new_str": '"token": null'},
        {"owner": "«org»", "repo": "«svc»", "path": "src/password.ts", "ref": "«h40»"},
        {"query": "token expired OR invalid password", "from": "now-«1..24»h", "indexes": ["main"]},
        {"jql": 'project = SEC AND text ~ "api key" ORDER BY created DESC', "maxResults": 50, "startAt": 0},
        {"q": "SELECT Id, Name FROM Account WHERE LastModifiedDate > «iso»", "batchSize": 200},
        {"url": "https://«domain»/reset-password?step=2&lang=de", "wait_until": "networkidle"}]),
    "c_observability": _Group({}, _BARE, [{"resourceSpans": [{"spans": [{"traceId": "«h32»", "spanId": "«h16»",
            "parentSpanId": "«h16»", "name": "POST /token", "startTimeUnixNano": "«epoch»«d9»",
            "attributes": [{"key": "http.route", "value": {"stringValue": "/token"}}]}]}]},
        {"dashboard": {"uid": "«l9»", "title": "Auth tokens", "panels": [{"id": 1,
            "targets": [{"expr": "sum(rate(token_issued_total[5m])) by (client)"}]}]}},
        {"series": [{"metric": "auth.password.reset", "points": [["№«epoch»", "№«1..90»"], ["№«epoch»", "№«1..90»"],
            ["№«epoch»", "№«1..90»"]]}]}, {"alerts": [{"status": "firing", "labels": {"alertname": "TokenErrorsHigh",
            "severity": "page"}, "fingerprint": "«h16»",
            "generatorURL": "http://prometheus:9090/graph?g0.expr=token_errors"}]},
        {"hits": {"total": {"value": "№«1..999»"}, "hits": [{"_index": "logs-«date»", "_id": "«s20»",
            "_source": {"message": "password changed", "user_id": "«n6»"}}]},
            "_scroll_id": "DXF1ZXJ5QW5kRmV0Y2gBAAAAAA«b40»=="},
        _shown("thread_name=token-refresher-«1..9» heap_used=«n9» gc_pause_ms=«1..90» uptime=«n6»"),
        {"run_id": "«uuid»", "dag_id": "rotate_api_keys", "state": "success", "execution_date": "«iso»",
            "duration": "№«1..999»"}, {"query": "fields @timestamp, @message | filter @message like /token/ | limit 20",
            "queryId": "«uuid»", "status": "Complete"}, {"buildNumber": "№«1..9999»", "sha": "«h40»",
            "artifacts": [{"name": "dist.zip", "md5": "«h32»", "size": "№«n7»"}]}]),
    "c_languages": _Group({"number": "«n7»"}, _SAID, [
        "Guten Tag, ich kann mich nicht anmelden. Das Passwort habe ich schon zweimal zurückgesetzt. Kundennummer "
            "«number».",
        "Bonjour, je n'arrive pas à changer mon mot de passe, numéro de client «number».",
        "Hola, ¿dónde encuentro la clave de API en el panel? Cuenta «number».",
        "Olá, o token expira muito rápido, podem aumentar? Projeto «number».",
        "Salve, la password viene rifiutata anche se è corretta. Pratica «number».",
        "Hallo, waar kan ik mijn wachtwoord wijzigen? Klantnummer «number».",
        "こんにちは、パスワードを忘れました。会員番号は «number» です。", "你好，我的令牌失效了，工单号 «number»。",  # noqa: RUF001
        "Здравствуйте, не приходит ссылка для сброса пароля, договор «number».",  # noqa: RUF001
        "Merhaba, şifremi değiştiremiyorum. Sipariş no «number»."]),
    "c_xml_soap": _Group({}, _shown("«it»", "cat pom.xml"), [
        '<?xml version="1.0"?><soap:Envelope><soap:Body><GetOrderResponse><OrderId>«n8»</OrderId><Status>SHIPPE'
            "D</Status><Guid>«uuid»</Guid></GetOrderResponse></soap:Body></soap:Envelope>",
        "<dependency>\n  <groupId>io.jsonwebtoken</groupId>\n  <artifactId>jjwt-api</artifactId>\n"
            "  <version>«ver»</version>\n</dependency>",
        '<xs:element name="Password" type="xs:string" minOccurs="0"/><xs:element name="Token" type="tns:TokenType"/>',
        '<item><title>How tokens work</title><guid isPermaLink="false">«uuid»</guid><pubDate>Wed, 12 Mar 2025 «time» '
            "GMT</pubDate></item>",
        '<string name="password_hint">Password</string>\n<string name="error_invalid_password">This password is too '
            'short</string>\n<string name="token_expired">Session expired</string>',
        '<testcase classname="auth.PasswordTest" name="rejectsWeakPassword" time="0.«n3»"/><testcase '
            'classname="auth.TokenTest" name="expires" time="0.«n3»"/>']),
}  # fmt: skip
_GROUPS: list[tuple[str, dict[str, _Group]]] = [
    ("api_key", _API_KEYS),
    ("credential", _CREDENTIALS),
    ("private_key", _PRIVATE_KEYS),
    ("jwt", _JWTS),
    ("connection_string", _CONNECTIONS),
    ("card", _CARDS),
    ("email", _MAILS),
    ("phone", _PHONE_NUMBERS),
    ("email", _CONTACTS),
    ("credential", _LOGINS),
    ("clean", _CLEAN),
]


def documents(seed: int) -> list[Case]:
    """Documents of every kind in a random order, the same ones for a seed."""
    root = Random(seed)
    cases, seen = [], set()
    for kind, groups in _GROUPS:
        for name, group in groups.items():
            count = group.count or len(group.templates)
            # Clean documents are made twice, with other random parts.
            for turn in range(2 if kind == "clean" and count <= 24 else 1):
                for index in range(count):
                    value, secrets = group.made(Random(root.getrandbits(64)), index)
                    mark = json.dumps(value, sort_keys=True)
                    if mark not in seen:
                        seen.add(mark)
                        cases.append(Case(value, secrets, kind, f"{name}/{index}" + (f".{turn}" if turn else "")))
    root.shuffle(cases)
    return cases
