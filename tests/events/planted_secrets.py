"""A corpus that judges the redactor: texts and JSON with planted secrets, and hard clean ones.

Everything is made from tables by a seeded generator. `«h32»` in a template draws 32 characters of alphabet `h`,
`«uuid»` and the like call a maker, and `«v»` is the secret in its context. In tables of secrets `|` is dropped, so
that no prefix of a provider stands here whole, and single guillemets mark the secret part where it is not all.
"""

# ruff: noqa: RUF001

import base64
import json
import re
import string
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, TypeVar
from urllib.parse import quote

T = TypeVar("T")
Row = tuple[str, Any]
Named = tuple[str, str, str]
Pem = tuple[str, str, str, int, int, str]


@dataclass(frozen=True)
class Case:
    """One value as an agent would pass or get it, and what must not survive of it."""

    value: Any
    secrets: tuple[str, ...]
    kind: str
    label: str


# --- the template language ---------------------------------------------------------------------------------------

_ALPHABETS = {
    "w": string.ascii_letters + string.digits,
    "a": string.ascii_letters,
    "c": string.ascii_lowercase,
    "C": string.ascii_uppercase,
    "u": string.ascii_uppercase + string.digits,
    "l": string.ascii_lowercase + string.digits,
    "d": string.digits,
    "n": "23456789",
    "h": "0123456789abcdef",
    "H": "0123456789ABCDEF",
    "t": string.ascii_uppercase + "234567",
    "b": string.ascii_letters + string.digits + "+/",
    "s": string.ascii_letters + string.digits + "-_",
    "q": "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
    "k": "0123456789ABCDEFGHJKMNPQRSTVWXYZ",
}
_LISTS = """
copper lantern orbit falcon meadow granite willow harbor saffron cobalt timber juniper marble thistle ember quartz
Anna Bruno Carla Daniel Elena Felix Greta Hugo Ines Jonas Karin Lukas Marta Nadia Oscar Paula
Keller Moreau Rossi Novak Jansen Silva Okafor Tanaka Lindqvist Murphy Castillo Weber Dubois Haas Ortiz
com org net io dev de fr co.uk com.br ch eu app technology
212 305 312 415 503 602 617 702 713 818 919 206 404 512
PASSWORD DB_PASSWORD ADMIN_PASSWORD SMTP_PASSWORD PASSPHRASE PASSWD KEYSTORE_PASSWORD USER_PWD ROOT_PASSWORD
API_KEY CLIENT_SECRET ACCESS_TOKEN REFRESH_TOKEN AUTH_TOKEN SECRET_KEY ENCRYPTION_KEY SIGNING_SECRET PRIVATE_TOKEN \
APP_SECRET JWT_SECRET WEBHOOK_SECRET SERVICE_API_KEY SESSION_SECRET BEARER_TOKEN
"""
_WORDS, _FIRST, _LAST, _TLDS, _AREAS, _PASSWORDS, _OPAQUES = (line.split() for line in _LISTS.strip().splitlines())


def _chars(rng: Random, code: str, count: int) -> str:
    return "".join(rng.choice(_ALPHABETS[code]) for _ in range(count))


def _uuid(rng: Random) -> str:
    raw = _chars(rng, "h", 32)
    return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-{rng.choice('89ab')}{raw[17:20]}-{raw[20:]}"


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _checked(rng: Random) -> str:
    """Thirty characters and their CRC in base 62, as GitHub and npm end their tokens."""
    body, digits, crc = _chars(rng, "w", 30), string.digits + string.ascii_uppercase + string.ascii_lowercase, ""
    rest = zlib.crc32(body.encode())
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        crc = digits[digit] + crc
    return body + crc


def _luhn_ok(digits: str) -> bool:
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits)))
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def _luhn(rng: Random, prefix: str, length: int, *, valid: bool = True) -> str:
    stem = prefix + _chars(rng, "d", length - len(prefix) - 1)
    good = next(d for d in string.digits if _luhn_ok(stem + d))
    return stem + (good if valid else rng.choice([d for d in string.digits if d != good]))


def _ean(rng: Random, prefix: str) -> str:
    stem = prefix + _chars(rng, "d", 12 - len(prefix))
    return stem + str(-sum(int(d) * (3 if i % 2 else 1) for i, d in enumerate(stem)) % 10)


def _body(rng: Random, start: str, width: int, lines: int) -> list[str]:
    """The base64 lines of a key, the last one shorter."""
    text = start + _chars(rng, "b", width * lines - len(start) - (0 if lines == 1 else 12))
    return [text[i : i + width] for i in range(0, len(text), width)]


def _password(rng: Random) -> str:
    """A password of a common style; no style needs escapes in JSON, quotes, shells, or URLs."""
    one, two = rng.choice(_WORDS), rng.choice(_WORDS)
    styles = [
        f"{one.capitalize()}{_chars(rng, 'd', 4)}!",
        f"{one}-{two}-{_chars(rng, 'd', 2)}-{rng.choice(_WORDS)}",
        f"{one}{_chars(rng, 'd', 3)}{_chars(rng, 'c', 3)}",
        f"{one.capitalize()}_{two.capitalize()}{_chars(rng, 'd', 2)}",
        f"{_chars(rng, 'w', 6)}.{_chars(rng, 'w', 4)}*{_chars(rng, 'd', 2)}",
        f"{_chars(rng, 'w', 13)}{_chars(rng, 'd', 1)}",
        f"{_chars(rng, 'a', 4)}{_chars(rng, 'd', 1)}~{_chars(rng, 'w', 14)}",
    ]
    return rng.choice(styles)


def _opaque(rng: Random) -> str:
    return str(_fill(rng, rng.choice(["«h32»", "«h64»", "«w24»", "«w40»", "«s43»", "«b43»=", "«w8»-«w8»-«w8»"])))


_MAKERS: dict[str, Callable[[Random], str]] = {
    "uuid": _uuid,
    "ulid": lambda r: "01" + r.choice("HJK") + _chars(r, "k", 23),
    "checked": _checked,
    "pw": _password,
    "opaque": _opaque,
    "basic": lambda r: base64.b64encode(f"svc:{_password(r)}".encode()).decode(),
    "x64": lambda r: base64.b64encode(_password(r).encode()).decode(),
    "word": lambda r: r.choice(_WORDS),
    "First": lambda r: r.choice(_FIRST),
    "first": lambda r: r.choice(_FIRST).lower(),
    "FIRST": lambda r: r.choice(_FIRST).upper(),
    "Last": lambda r: r.choice(_LAST),
    "last": lambda r: r.choice(_LAST).lower(),
    "domain": lambda r: f"{r.choice(_WORDS)}{r.choice(['', '-', ''])}{r.choice(_WORDS)}.{r.choice(_TLDS)}",
    "area": lambda r: r.choice(_AREAS),
    "ms": lambda r: f"17{_chars(r, 'd', 11)}",
    "sec": lambda r: f"17{_chars(r, 'd', 8)}",
    "date": lambda r: f"20{r.randint(19, 26)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}",
    "time": lambda r: f"{r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02}",
    "ip": lambda r: f"10.{r.randint(0, 255)}.{r.randint(0, 255)}.{r.randint(1, 254)}",
    "price": lambda r: f"{r.randint(1, 2000)}.{r.randint(0, 99):02}",
    "ver": lambda r: f"{r.randint(0, 9)}.{r.randint(0, 30)}.{r.randint(0, 20)}",
    "int": lambda r: str(r.randint(2, 4000)),
    "botid": lambda r: _b64url(f"1{_chars(r, 'd', 17)}".encode()),
    "mapbox": lambda r: _b64url(json.dumps({"u": r.choice(_WORDS), "a": f"ck{_chars(r, 'l', 23)}"}).encode()),
    "sentry": lambda r: base64.b64encode(
        json.dumps({"iat": int(f"17{_chars(r, 'd', 8)}"), "url": "https://sentry.io", "org": "acme"}).encode()
    ).decode(),
    "badcard": lambda r: _luhn(r, r.choice(["4", "51", "55", "6011", "2221"]), 16, valid=False),
    "oddcard": lambda r: _luhn(r, r.choice(["0", "10", "18", "70", "83", "99"]), 16),
    "isbn": lambda r: _ean(r, "978"),
    "ean": lambda r: _ean(r, r.choice(["50", "73", "76", "87", "90"])),
    "lines": lambda r: "\n".join(_body(r, "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A", 64, 6)),
    "text64": lambda r: base64.b64encode(f"The {r.choice(_WORDS)} stood by the {r.choice(_WORDS)}.".encode()).decode(),
}
_DIRECTIVE = re.compile(r"«([A-Za-z]+)(\d*)»")


def _fill(rng: Random, template: Any, given: Mapping[str, str] | None = None) -> Any:
    """Fill a template, also one nested in lists and objects; a text that begins with `№` becomes a number."""
    given = given or {}

    def draw(match: re.Match[str]) -> str:
        name = match[0][1:-1]
        if name in given:
            return given[name]
        return _MAKERS[name](rng) if name in _MAKERS else _chars(rng, match[1], int(match[2]))

    match template:
        case str():
            text = _DIRECTIVE.sub(draw, template)
            return (float if "." in text else int)(text[1:]) if text.startswith("№") else text
        case dict():
            return {_fill(rng, key, given): _fill(rng, item, given) for key, item in template.items()}
        case list():
            return [_fill(rng, item, given) for item in template]
    return template


def strings_in(value: Any) -> Iterator[str]:
    """Every text of a JSON value, names aside."""
    match value:
        case str():
            yield value
        case dict():
            for item in value.values():
                yield from strings_in(item)
        case list():
            for item in value:
                yield from strings_in(item)


def _marked(rng: Random, template: Any, given: Mapping[str, str] | None = None) -> tuple[Any, tuple[str, ...]]:
    """The filled template without its marks, and the marked parts."""

    def strip(value: Any) -> Any:
        match value:
            case str():
                return re.sub("[‹›|]", "", value)
            case dict():
                return {key: strip(item) for key, item in value.items()}
            case list():
                return [strip(item) for item in value]
        return value

    filled = _fill(rng, template, given)
    return strip(filled), tuple(strip(part) for text in strings_in(filled) for part in re.findall("‹(.*?)›", text))


def _names(name: str) -> dict[str, str]:
    words = name.lower().split("_")
    title = [word.capitalize() for word in words]
    return {
        "snake": "_".join(words),
        "camel": words[0] + "".join(title[1:]),
        "pascal": "".join(title),
        "kebab": "-".join(words),
        "UPPER": "_".join(words).upper(),
        "Header": "X-" + "-".join(title),
        "dotted": ".".join(words),
        "words": " ".join(words),
        "Words": " ".join(title),
    }


# --- formats of secrets ------------------------------------------------------------------------------------------

# Told by their own shape: label, shape, telling name.
_TOKENS: list[Named] = [
    ("aws access key id", "AK|IA«t16»", "AWS_ACCESS_KEY_ID"),
    ("aws temporary access key id", "AS|IA«t16»", "AWS_ACCESS_KEY_ID"),
    ("aws bedrock api key", "AB|SKQmVkcm9ja0FQSUtleS«b110»", "AWS_BEARER_TOKEN_BEDROCK"),
    ("gcp api key", "AI|zaSy«s33»", "GOOGLE_API_KEY"),
    ("google oauth client secret", "GOC|SPX-«s28»", "GOOGLE_CLIENT_SECRET"),
    ("google oauth access token", "ya|29.a0«s180»", "GOOGLE_ACCESS_TOKEN"),
    ("azure ad client secret", "«w3»8|Q~«s34»", "AZURE_CLIENT_SECRET"),
    ("github classic token", "gh|p_«checked»", "GITHUB_TOKEN"),
    ("github oauth token", "gh|o_«checked»", "GITHUB_OAUTH_TOKEN"),
    ("github app user token", "gh|u_«checked»", "GITHUB_TOKEN"),
    ("github app installation token", "gh|s_«checked»", "GH_TOKEN"),
    ("github fine-grained token", "github|_pat_«w22»_«w59»", "GITHUB_TOKEN"),
    ("gitlab personal token", "gl|pat-«s20»", "GITLAB_TOKEN"),
    ("gitlab routable token", "gl|pat-«s27».01.«l9»", "GITLAB_TOKEN"),
    ("gitlab deploy token", "gl|dt-«s20»", "GITLAB_DEPLOY_TOKEN"),
    ("gitlab runner token", "gl|rt-«s20»", "RUNNER_TOKEN"),
    ("gitlab trigger token", "gl|ptt-«h40»", "TRIGGER_TOKEN"),
    ("bitbucket app password", "AT|BB«w24»«H8»", "BITBUCKET_APP_PASSWORD"),
    ("bitbucket access token", "AT|CTT3xFfGN0«s171»=«H8»", "BITBUCKET_TOKEN"),
    ("atlassian api token", "AT|ATT3xFfGF0«s171»=«H8»", "ATLASSIAN_API_TOKEN"),
    ("slack bot token", "xo|xb-«n1»«d11»-«n1»«d12»-«w24»", "SLACK_BOT_TOKEN"),
    ("slack user token", "xo|xp-«n1»«d11»-«n1»«d11»-«n1»«d12»-«h32»", "SLACK_TOKEN"),
    ("slack app token", "xa|pp-1-A«u10»-«n1»«d12»-«h64»", "SLACK_APP_TOKEN"),
    ("slack webhook", "https://hooks.slack|.com/services/T«u10»/B«u10»/‹«w24»›", "SLACK_WEBHOOK_URL"),
    ("discord webhook", "https://discord|.com/api/webhooks/1«d17»/‹«s68»›", "DISCORD_WEBHOOK_URL"),
    ("discord bot token", "«botid».«s6».«s38»", "DISCORD_TOKEN"),
    ("telegram bot token", "«n1»«d9»:|AA«s33»", "TELEGRAM_BOT_TOKEN"),
    ("stripe secret key", "sk|_live_«w24»", "STRIPE_SECRET_KEY"),
    ("stripe long secret key", "sk|_live_51«w97»", "STRIPE_SECRET_KEY"),
    ("stripe test key", "sk|_test_«w24»", "STRIPE_API_KEY"),
    ("stripe restricted key", "rk|_live_«w24»", "STRIPE_RESTRICTED_KEY"),
    ("stripe webhook secret", "wh|sec_«w32»", "STRIPE_WEBHOOK_SECRET"),
    ("openai old key", "sk|-«w20»T3Blbk|FJ«w20»", "OPENAI_API_KEY"),
    ("openai project key", "sk|-proj-«s74»T3Blbk|FJ«s74»", "OPENAI_API_KEY"),
    ("openai service account key", "sk|-svcacct-«s58»T3Blbk|FJ«s58»", "OPENAI_API_KEY"),
    ("anthropic api key", "sk|-ant-api03-«s93»AA", "ANTHROPIC_API_KEY"),
    ("anthropic admin key", "sk|-ant-admin01-«s93»AA", "ANTHROPIC_ADMIN_KEY"),
    ("anthropic oauth token", "sk|-ant-oat01-«s93»AA", "CLAUDE_CODE_OAUTH_TOKEN"),
    ("hugging face token", "h|f_«a34»", "HF_TOKEN"),
    ("openrouter key", "sk|-or-v1-«h64»", "OPENROUTER_API_KEY"),
    ("groq key", "gs|k_«w52»", "GROQ_API_KEY"),
    ("xai key", "xa|i-«w80»", "XAI_API_KEY"),
    ("perplexity key", "pp|lx-«w48»", "PERPLEXITY_API_KEY"),
    ("replicate token", "r|8_«w37»", "REPLICATE_API_TOKEN"),
    ("nvidia key", "nv|api-«s64»", "NVIDIA_API_KEY"),
    ("langsmith key", "ls|v2_pt_«h32»_«h10»", "LANGSMITH_API_KEY"),
    ("langfuse secret key", "sk|-lf-«uuid»", "LANGFUSE_SECRET_KEY"),
    ("pinecone key", "pc|sk_«w6»_«w63»", "PINECONE_API_KEY"),
    ("tavily key", "tv|ly-dev-«w32»", "TAVILY_API_KEY"),
    ("npm token", "np|m_«checked»", "NPM_TOKEN"),
    ("pypi token", "py|pi-AgEIcHlwaS5vcmc«s160»", "PYPI_TOKEN"),
    ("rubygems key", "ruby|gems_«h48»", "RUBYGEMS_API_KEY"),
    ("nuget key", "oy|2«l43»", "NUGET_API_KEY"),
    ("docker hub token", "dckr|_pat_«s27»", "DOCKER_TOKEN"),
    ("sendgrid key", "S|G.«s22».«s43»", "SENDGRID_API_KEY"),
    ("brevo key", "xkey|sib-«h64»-«w16»", "BREVO_API_KEY"),
    ("mailgun key", "ke|y-«h32»", "MAILGUN_API_KEY"),
    ("twilio api key", "S|K«h32»", "TWILIO_API_KEY"),
    ("shopify admin token", "shp|at_«h32»", "SHOPIFY_ACCESS_TOKEN"),
    ("shopify shared secret", "shp|ss_«h32»", "SHOPIFY_API_SECRET"),
    ("square access token", "EA|AA«s60»", "SQUARE_ACCESS_TOKEN"),
    ("square oauth secret", "sq0|csp-«s43»", "SQUARE_APPLICATION_SECRET"),
    ("braintree access token", "access|_token$production$«l16»$«h32»", "BRAINTREE_ACCESS_TOKEN"),
    ("plaid access token", "access|-production-«uuid»", "PLAID_ACCESS_TOKEN"),
    ("databricks token", "da|pi«h32»", "DATABRICKS_TOKEN"),
    ("digitalocean token", "do|p_v1_«h64»", "DIGITALOCEAN_TOKEN"),
    ("vault service token", "hv|s.«s95»", "VAULT_TOKEN"),
    ("vault batch token", "hv|b.«s140»", "VAULT_TOKEN"),
    ("terraform cloud token", "«w14».atlas|v1.«s67»", "TFE_TOKEN"),
    ("pulumi token", "pu|l-«h40»", "PULUMI_ACCESS_TOKEN"),
    ("grafana service account token", "gl|sa_«w32»_«h8»", "GRAFANA_TOKEN"),
    ("grafana cloud token", "gl|c_eyJvIjoi«w100»=", "GRAFANA_CLOUD_TOKEN"),
    ("new relic user key", "NR|AK-«u27»", "NEW_RELIC_API_KEY"),
    ("new relic license key", "«h36»NR|AL", "NEW_RELIC_LICENSE_KEY"),
    ("dynatrace token", "dt0|c01.«t24».«t64»", "DYNATRACE_TOKEN"),
    ("sentry user token", "sntry|u_«h64»", "SENTRY_AUTH_TOKEN"),
    ("sentry org token", "sntry|s_«sentry»_«b43»", "SENTRY_AUTH_TOKEN"),
    ("postman key", "PM|AK-«h24»-«h34»", "POSTMAN_API_KEY"),
    ("linear key", "lin|_api_«w40»", "LINEAR_API_KEY"),
    ("notion old token", "secr|et_«w43»", "NOTION_TOKEN"),
    ("notion token", "nt|n_«d11»«w35»", "NOTION_API_KEY"),
    ("dropbox token", "sl|.B«s134»", "DROPBOX_ACCESS_TOKEN"),
    ("airtable token", "pa|t«w14».«h64»", "AIRTABLE_TOKEN"),
    ("figma token", "fi|gd_«s40»", "FIGMA_TOKEN"),
    ("hubspot token", "pa|t-na1-«uuid»", "HUBSPOT_ACCESS_TOKEN"),
    ("cloudflare origin ca key", "v1|.0-«h24»-«h146»", "CF_ORIGIN_CA_KEY"),
    ("heroku new key", "HR|KU-AA«s58»", "HEROKU_API_KEY"),
    ("supabase access token", "sb|p_«h40»", "SUPABASE_ACCESS_TOKEN"),
    ("supabase secret key", "sb|_secret_«s22»_«s8»", "SUPABASE_SECRET_KEY"),
    ("planetscale token", "pscale|_tkn_«s43»", "PLANETSCALE_SERVICE_TOKEN"),
    ("planetscale password", "pscale|_pw_«s43»", "DATABASE_PASSWORD"),
    ("doppler personal token", "dp|.pt.«w43»", "DOPPLER_TOKEN"),
    ("doppler service token", "dp|.st.prd.«w43»", "DOPPLER_TOKEN"),
    ("fly.io token", "fm|2_«b160»=", "FLY_API_TOKEN"),
    ("age secret key", "AGE-SEC|RET-KEY-1«q58»", "SOPS_AGE_KEY"),
    ("mapbox secret token", "sk|.«mapbox».«s22»", "MAPBOX_SECRET_TOKEN"),
    ("easypost key", "EZ|AK«w54»", "EASYPOST_API_KEY"),
    ("tailscale key", "ts|key-auth-k«w11»CNTRL-«w32»", "TAILSCALE_AUTHKEY"),
    ("circleci token", "CCI|PAT_«w22»_«h40»", "CIRCLECI_TOKEN"),
    ("buildkite token", "bk|ua_«h40»", "BUILDKITE_API_TOKEN"),
    ("sonarqube token", "sq|u_«h40»", "SONAR_TOKEN"),
    ("netlify token", "nf|p_«w36»", "NETLIFY_AUTH_TOKEN"),
    ("alibaba access key id", "LT|AI5t«w18»", "ALIBABA_CLOUD_ACCESS_KEY_ID"),
    ("1password service token", "op|s_eyJ«w250»", "OP_SERVICE_ACCOUNT_TOKEN"),
]
# Told only by the name beside them.
_NAMED_TOKENS: list[Named] = [
    ("aws secret access key", "«b40»", "AWS_SECRET_ACCESS_KEY"),
    ("aws session token", "IQoJb3JpZ2luX2Vj«b280»=", "AWS_SESSION_TOKEN"),
    ("google refresh token", "1//0«d1»«s98»", "GOOGLE_REFRESH_TOKEN"),
    ("azure storage key", "«b86»==", "AZURE_STORAGE_ACCOUNT_KEY"),
    ("azure openai key", "«h32»", "AZURE_OPENAI_API_KEY"),
    ("azure devops token", "«l52»", "AZURE_DEVOPS_TOKEN"),
    ("twilio auth token", "«h32»", "TWILIO_AUTH_TOKEN"),
    ("datadog api key", "«h32»", "DATADOG_API_KEY"),
    ("datadog app key", "«h40»", "DD_APP_KEY"),
    ("cloudflare api token", "«s40»", "CLOUDFLARE_API_TOKEN"),
    ("cloudflare global key", "«h37»", "CLOUDFLARE_API_KEY"),
    ("heroku key", "«uuid»", "HEROKU_API_KEY"),
    ("okta token", "00«s40»", "OKTA_API_TOKEN"),
    ("pagerduty key", "u+«s18»", "PAGERDUTY_API_KEY"),
    ("snyk token", "«uuid»", "SNYK_TOKEN"),
    ("asana token", "1/1«d15»:«h32»", "ASANA_ACCESS_TOKEN"),
    ("cohere key", "«w40»", "COHERE_API_KEY"),
    ("mistral key", "«w32»", "MISTRAL_API_KEY"),
    ("mailchimp key", "«h32»-us21", "MAILCHIMP_API_KEY"),
    ("algolia admin key", "«h32»", "ALGOLIA_ADMIN_API_KEY"),
    ("confluent api secret", "«b64»", "CONFLUENT_API_SECRET"),
    ("vault old token", "s.«w24»", "VAULT_TOKEN"),
    ("postmark token", "«uuid»", "POSTMARK_SERVER_TOKEN"),
    ("vercel token", "«w24»", "VERCEL_TOKEN"),
    ("launchdarkly key", "sdk-«uuid»", "LAUNCHDARKLY_SDK_KEY"),
    ("codecov token", "«uuid»", "CODECOV_TOKEN"),
]
_CREDENTIALS: list[Named] = [
    *((f"generic {name.lower()}", "«pw»", name) for name in _PASSWORDS),
    *((f"generic {name.lower()}", "«opaque»", name) for name in _OPAQUES),
]
_CONNECTIONS: list[Row] = [
    ("postgres url", "postgres://app:‹«pw»›@db.internal:5432/orders"),
    ("postgresql url with options", "postgresql://«first»:‹«pw»›@«ip»/orders?sslmode=require&connect_timeout=5"),
    ("sqlalchemy psycopg url", "postgresql+psycopg://svc_«word»:‹«pw»›@pg-«d2»:5432/main"),
    ("sqlalchemy asyncpg url", "postgresql+asyncpg://app:‹«w18»›@localhost/app"),
    ("postgres url with a coded password", "postgresql://app:‹«word»%40«w5»%2F«d3»›@db:5432/app"),
    ("postgres url with a raw at sign", "postgres://app:‹«word»@«w6»«d2»›@db.prod.local:5432/app"),
    ("postgres url with an ipv6 host", "postgres://app:‹«pw»›@[fd00::«h4»:1]:5432/app"),
    ("mysql url", "mysql://root:‹«pw»›@mysql:3306/shop"),
    ("sqlalchemy pymysql url", "mysql+pymysql://shop:‹«pw»›@«ip»:3306/shop?charset=utf8mb4"),
    ("mariadb url", "mariadb+mariadbconnector://shop:‹«w14»›@maria/shop"),
    ("mssql pyodbc url", "mssql+pyodbc://sa:‹«pw»›@sql01/erp?driver=ODBC+Driver+18+for+SQL+Server"),
    ("oracle url", "oracle+oracledb://scott:‹«pw»›@ora:1521/?service_name=XEPDB1"),
    ("mongodb url", "mongodb://admin:‹«pw»›@mongo-0:27017,mongo-1:27017/app?replicaSet=rs0&authSource=admin"),
    ("mongodb srv url", "mongodb+srv://app:‹«w16»›@cluster0.«l5».mongodb.net/prod?retryWrites=true&w=majority"),
    ("redis url without a user", "redis://:‹«pw»›@cache:6379/0"),
    ("redis tls url", "rediss://default:‹«w40»›@«word»-«d5».upstash.io:6379"),
    ("amqp url", "amqp://worker:‹«pw»›@rabbit:5672/%2Fjobs"),
    ("amqps url", "amqps://«word»:‹«s32»›@«word».rmq.cloudamqp.com/«word»"),
    ("nats url", "nats://agent:‹«pw»›@nats.svc:4222"),
    ("snowflake url", "snowflake://loader:‹«pw»›@xy«d5».eu-west-1/RAW/PUBLIC?warehouse=LOAD"),
    ("clickhouse url", "clickhouse+native://default:‹«pw»›@ch-«d1»:9000/events"),
    ("elasticsearch url", "https://elastic:‹«w20»›@es.internal:9200"),
    ("git over https", "https://oauth2:‹«w26»›@git.«word».dev/team/app.git"),
    ("basic auth url", "https://deploy:‹«pw»›@registry.«word».io/v2/_catalog"),
    ("ftp url", "ftp://upload:‹«pw»›@ftp.«word».net/incoming/"),
    ("sftp url", "sftp://batch:‹«pw»›@«ip»:2222/out"),
    ("smtp url", "smtp://mailer:‹«pw»›@smtp.«word».org:587"),
    ("ldap url", "ldaps://svc:‹«pw»›@ldap.corp:636/dc=corp"),
    ("mqtt url", "mqtts://sensor:‹«pw»›@broker:8883"),
    ("cloudinary url", "cloudinary://«n1»«d14»:‹«s27»›@«word»"),
    ("jdbc postgres", "jdbc:postgresql://db:5432/app?user=app&password=‹«pw»›&ssl=true"),
    ("jdbc mysql", "jdbc:mysql://db:3306/app?useSSL=false&user=app&password=‹«pw»›"),
    ("jdbc sql server", "jdbc:sqlserver://sql01:1433;databaseName=erp;user=sa;password=‹«pw»›;encrypt=true"),
    ("jdbc oracle thin", "jdbc:oracle:thin:scott/‹«pw»›@//ora:1521/XEPDB1"),
    ("odbc string", "Driver={ODBC Driver 18 for SQL Server};Server=sql01;Database=erp;Uid=sa;Pwd=‹«pw»›;Encrypt=yes;"),
    ("ado.net string", "Server=tcp:sql01,1433;Initial Catalog=erp;User ID=app;Password=‹«pw»›;Encrypt=True"),
    ("ado.net string with spaces", "Data Source=sql01; User Id=app; Password = ‹«pw»›; Pooling=true"),
    ("libpq string", "host=db port=5432 dbname=app user=app password=‹«pw»› sslmode=prefer"),
    ("libpq string with quotes", "host=db user=app password='‹«word» «word»«d2»›' dbname=app"),
    ("azure storage string", "AccountName=«word»;AccountKey=‹«b86»==›;EndpointSuffix=core.windows.net"),
    ("azure service bus string", "Endpoint=sb://«word».servicebus.windows.net/;SharedAccessKey=‹«b43»=›;EntityPath=q"),
    ("azure iot hub string", "HostName=«word».azure-devices.net;DeviceId=d«d3»;SharedAccessKey=‹«b43»=›"),
    ("azure cosmos string", "AccountEndpoint=https://«word».documents.azure.com:443/;AccountKey=‹«b86»==›;"),
    ("azure sas url", "https://«word».blob.core.windows.net/a?sv=2023-11-03&se=«date»&sr=b&sp=r&sig=‹«w40»%2B«w2»%3D›"),
    (
        "s3 signed url",
        "https://«word».s3.amazonaws.com/r.pdf?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20250301T101500Z"
        "&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=‹«h64»›",
    ),
    (
        "gcs signed url",
        "https://storage.googleapis.com/«word»/r.pdf?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Expires=600"
        "&X-Goog-SignedHeaders=host&X-Goog-Signature=‹«h512»›",
    ),
    ("cloudfront signed url", "https://d«l13».cloudfront.net/v?Expires=«sec»&Signature=‹«s171»_›&Key-Pair-Id=K«u13»"),
    ("url with a token", "https://api.«word».com/v1/export?format=csv&token=‹«w32»›"),
    ("url with an access token", "https://graph.«word».com/me?fields=id&access_token=‹«w48»›&limit=5"),
    ("url with an api key", "https://maps.«word».io/geocode?q=Bern&api_key=‹«h32»›"),
    ("websocket url with a token", "wss://stream.«word».io/socket?auth_token=‹«s43»›&v=2"),
    ("reset link", "https://app.«word».com/password/reset?reset_token=‹«s32»›"),
]
# Label, first digits, length, groups.
_CARDS: list[tuple[str, tuple[str, ...], int, tuple[int, ...]]] = [
    ("visa", ("4",), 16, (4, 4, 4, 4)),
    ("mastercard", ("51", "52", "53", "54", "55"), 16, (4, 4, 4, 4)),
    ("mastercard 2-series", ("2221", "2405", "2599", "2720"), 16, (4, 4, 4, 4)),
    ("amex", ("34", "37"), 15, (4, 6, 5)),
    ("discover", ("6011", "644", "649", "65"), 16, (4, 4, 4, 4)),
    ("jcb", ("3528", "3566", "3589"), 16, (4, 4, 4, 4)),
    ("diners club", ("36", "300", "305", "38"), 14, (4, 6, 4)),
    ("unionpay", ("6212", "6225", "6258"), 16, (4, 4, 4, 4)),
    ("unionpay 19", ("6214", "6222"), 19, (4, 4, 4, 4, 3)),
    ("maestro", ("5018", "5038", "6304", "6759", "6763"), 16, (4, 4, 4, 4)),
    ("mir", ("2200", "2202", "2204"), 16, (4, 4, 4, 4)),
    ("rupay", ("6521", "6522"), 16, (4, 4, 4, 4)),
]
_EMAILS: list[Row] = [
    ("plain address", "«first».«last»@«domain»"),
    ("address with a tag", "«first»+«word»@«domain»"),
    ("address at a subdomain", "«first»@mail.eu.«domain»"),
    ("address with digits", "«first»«d4»@«domain»"),
    ("address with underscores", "«first»_«last»_«d2»@«domain»"),
    ("address with a hyphen", "«first»-«last»@«word»-«word».com"),
    ("short address", "«c1».«last»@«c2».io"),
    ("upper case address", "«FIRST».«FIRST»@«word».COM"),
    ("mixed case address", "«First»«Last»@«domain»"),
    ("free mail address", "«first».«last»«d2»@gmail.com"),
    ("role address", "billing.«word»@«domain»"),
    ("address at a unicode domain", "«first»@bücher-«word».de"),
    ("address at a punycode domain", "«first»@xn--bcher-kva.example.org"),
]
_PHONES: list[Row] = [
    ("us e.164 number", "+1«area»«n2»«d1»«d4»"),
    ("us international number", "+1 («area») «n2»«d1»-«d4»"),
    ("us dashed international number", "+1-«area»-«n2»«d1»-«d4»"),
    ("us national number", "(«area») «n2»«d1»-«d4»"),
    ("us dashed number", "«area»-«n2»«d1»-«d4»"),
    ("uk international number", "+44 20 7«d3» «d4»"),
    ("uk mobile e.164 number", "+4477«d2»«d6»"),
    ("german international number", "+49 30 «n1»«d7»"),
    ("german number with (0)", "+49 (0)89 «n1»«d6»"),
    ("german mobile e.164 number", "+491512«d7»"),
    ("french international number", "+33 6 «d2» «d2» «d2» «d2»"),
    ("spanish international number", "+34 6«d2» «d3» «d3»"),
    ("italian international number", "+39 34«d1» «d7»"),
    ("swiss international number", "+41 79 «n1»«d2» «d2» «d2»"),
    ("polish international number", "+48 60«d1» «d3» «d3»"),
    ("swedish international number", "+46 70-«n1»«d2» «d2» «d2»"),
    ("japanese international number", "+81 90-«n1»«d3»-«d4»"),
    ("chinese international number", "+86 138 «d4» «d4»"),
    ("indian international number", "+91 98«d3» «d5»"),
    ("brazilian international number", "+55 11 9«n1»«d3»-«d4»"),
    ("australian international number", "+61 4«n1»«d1» «d3» «d3»"),
    ("turkish international number", "+90 532 «n1»«d2» «d2» «d2»"),
]
# Told only by the words beside them.
_NATIONAL_PHONES: list[Row] = [
    ("us dotted number", "«area».«n2»«d1».«d4»"),
    ("us ten digits", "«area»«n2»«d1»«d4»"),
    ("german landline number", "030 «n1»«d7»"),
    ("german slashed number", "089/«n1»«d6»"),
    ("german 0049 number", "0049 151 «n1»«d7»"),
    ("french national number", "06 «d2» «d2» «d2» «d2»"),
    ("french dotted number", "06.«d2».«d2».«d2».«d2»"),
    ("uk national number", "020 7«d3» «d4»"),
    ("uk mobile number", "077«d2» «d6»"),
    ("dutch mobile number", "06-«n1»«d7»"),
    ("spanish national number", "6«d2» «d3» «d3»"),
    ("japanese national number", "090-«n1»«d3»-«d4»"),
    ("brazilian national number", "(11) 9«n1»«d3»-«d4»"),
    ("australian mobile number", "04«n1»«d1» «d3» «d3»"),
    ("swedish mobile number", "070-«n1»«d2» «d2» «d2»"),
]
# Label, words of the armor, first characters, width, lines, lines above the body.
_PEMS: list[Pem] = [
    ("rsa key", "RSA PRIV|ATE KEY", "MIIEpAIBAAKCAQEA", 64, 25, ""),
    ("encrypted rsa key", "RSA PRIV|ATE KEY", "", 64, 25, "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,«H32»\n\n"),
    ("pkcs8 key", "PRIV|ATE KEY", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", 64, 26, ""),
    ("encrypted pkcs8 key", "ENCRYPTED PRIV|ATE KEY", "MIIFHDBOBgkqhkiG9w0BBQ0wQTApBgkq", 64, 28, ""),
    ("ec key", "EC PRIV|ATE KEY", "MHcCAQEEI", 64, 3, ""),
    ("ed25519 key", "PRIV|ATE KEY", "MC4CAQAwBQYDK2VwBCIEI", 64, 1, ""),
    ("dsa key", "DSA PRIV|ATE KEY", "MIIBugIBAAKBgQ", 64, 10, ""),
    ("openssh ed25519 key", "OPENSSH PRIV|ATE KEY", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9u", 70, 6, ""),
    ("openssh rsa key", "OPENSSH PRIV|ATE KEY", "b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIA", 70, 37, ""),
    ("pgp key", "PGP PRIV|ATE KEY BLOCK", "lQOYB", 64, 20, "\n"),
    ("pgp key with a version", "PGP PRIV|ATE KEY BLOCK", "lQVYB", 64, 30, "Version: GnuPG v2\n\n"),
]
_KEY_TEXTS: list[Row] = [
    (
        "putty key file",
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: deploy\nPublic-Lines: 2\nAAAAC3NzaC1lZDI1NTE5"
        "«b44»\n«b16»\nPriv|ate-Lines: 1\n‹«b47»=›\nPriv|ate-MAC: «h64»\n",
    ),
    ("wireguard key", "[Interface]\nAddress = «ip»/24\nPriv|ateKey = ‹«b42»0=›\nListenPort = 51820\n"),
    ("base64 of a pem key", "data:\n  tls.key: ‹LS0tLS1CRUdJTi|BQUklWQVRFIEtFWS0tLS0tCk1«b600»›\ntype: tls\n"),
]
_JWTS: list[tuple[str, dict[str, Any], int]] = [
    ("hs256 jwt", {"alg": "HS256", "typ": "JWT"}, 43),
    ("hs512 jwt", {"typ": "JWT", "alg": "HS512"}, 86),
    ("rs256 jwt", {"alg": "RS256", "typ": "JWT", "kid": "«h24»"}, 342),
    ("es256 jwt", {"alg": "ES256", "kid": "«uuid»"}, 86),
    ("access token jwt", {"alg": "RS256", "typ": "at+jwt", "kid": "k1"}, 342),
    ("eddsa jwt", {"alg": "EdDSA"}, 86),
]
_CLAIMS: list[dict[str, Any]] = [
    {"sub": "«d10»", "name": "«First» «Last»", "iat": "№«sec»"},
    {"iss": "https://id.«word».io/", "aud": "orders", "exp": "№«sec»", "scope": "read write", "sub": "auth0|«h24»"},
    {"iss": "supabase", "ref": "«c20»", "role": "service_role", "iat": "№«sec»", "exp": "№«sec»"},
    {"user": {"id": "№«n1»«d4»", "roles": ["admin", "ops"]}, "jti": "«uuid»", "exp": "№«sec»"},
]

# --- contexts: «v» is the value and «q» the same percent-encoded -------------------------------------------------

# Any value, no telling word.
_PLACES: list[Row] = [
    ("as the bare value", "«v»"),
    ("as an argument", {"value": "«v»"}),
    ("as a second argument", {"action": "set", "target": "staging", "data": "«v»"}),
    ("in a list", ["first", "«v»", "third"]),
    ("nested 2 deep", {"params": {"input": "«v»"}}),
    ("nested 3 deep", {"call": {"args": {"raw": "«v»"}}}),
    ("nested 5 deep", {"a": {"b": [{"c": {"d": "«v»"}}]}}),
    ("in double quotes", 'He pasted "«v»" into the form.'),
    ("in single quotes", "print('«v»')"),
    ("in backticks", "Use `«v»` here, please."),
    ("in typographic quotes", "Bitte „«v»“ eintragen, dann “«v»” bestätigen."),
    ("in guillemets", "Entrez «" + "«v»" + "» puis validez."),
    ("in parentheses", "The old one («v») no longer works."),
    ("in brackets", "matched [«v»] in 3 ms"),
    ("in angle brackets", "from <«v»> to stdout"),
    ("before a full stop", "I just sent «v». Did it arrive?"),
    ("before a comma", "«v», as discussed, is the one"),
    ("between semicolons", "a;«v»;b"),
    ("at the very start", "«v» is what the customer typed"),
    ("at the very end", "the customer typed «v»"),
    ("after a newline", "result:\n«v»\ndone\n"),
    ("after a tab", "row\t«v»\tok"),
    ("after windows newlines", "first\r\n«v»\r\nlast\r\n"),
    ("beside accents", "Voilà, copié-collé à côté : «v» — déjà testé !"),
    ("beside chinese text", "请使用«v»，谢谢"),
    ("beside japanese text", "これは「«v»」です"),
    ("beside cyrillic text", "вот это: «v», проверь"),
    ("beside emoji", "🔑«v»🔑"),
    ("in a log line", "«date» «time»,«d3» INFO worker[«int»] handling input «v» attempt=1"),
    ("in a csv line", "id,field,amount\n«int»,«v»,«price»\n"),
    ("in sql", "UPDATE notes SET body = '«v»' WHERE id = «int»;"),
    ("in html", '<td class="cell">«v»</td><td>«int»</td>'),
    ("in a markdown table", "| item | content |\n|---|---|\n| 1 | «v» |\n"),
    ("in a markdown list", "Findings:\n\n1. **«v»**\n2. nothing else\n"),
    ("in an error message", "ValueError: could not parse input: «v»"),
    (
        "in a traceback",
        'Traceback:\n  File "/app/main.py", line «int», in run\n    send("«v»")\nTimeoutError: after 30 s',
    ),
    ("in a diff", "--- a/notes.txt\n+++ b/notes.txt\n@@ -1 +1 @@\n-old\n+«v»\n"),
    ("in grep output", "src/app/settings.py:«int»:«v»"),
    ("in a chat answer", "Sure! I found this in the ticket: «v». Shall I go on?"),
]
# Tokens that are told by their shape, or by the scheme or header in the text.
_BEARERS: list[Row] = [
    ("in a bearer header", {"headers": {"Authorization": "Bearer «v»", "Accept": "application/json"}}),
    ("in a curl command", "curl -sS -H 'Authorization: Bearer «v»' https://api.example.com/v1/me"),
    ("in an http dump", "GET /v1/me HTTP/1.1\r\nHost: api.test\r\nauthorization: Bearer «v»\r\nAccept: */*\r\n\r\n"),
    ("in python headers", 'requests.get(url, headers={"Authorization": f"Bearer «v»"}, timeout=10)'),
    ("in js headers", "fetch(url, { headers: { Authorization: `Bearer «v»` } })"),
    ("in a debug log of headers", "DEBUG http headers={'Authorization': 'Bearer «v»', 'User-Agent': 'agent/«ver»'}"),
]
# A telling name beside the value.
_KEYED: list[Row] = [
    ("under a snake_case key", {"«snake»": "«v»"}),
    ("under a camelCase key", {"region": "eu", "«camel»": "«v»"}),
    ("under a kebab-case key", {"«kebab»": "«v»", "retries": 3}),
    ("under an UPPER key", {"env": {"LOG_LEVEL": "info", "«UPPER»": "«v»"}}),
    ("under a PascalCase key", {"Settings": {"«pascal»": "«v»"}}),
    ("under a key 3 deep", {"config": {"service": {"«snake»": "«v»", "port": 8080}}}),
    ("under a key 5 deep", {"a": [{"b": {"c": [{"«camel»": "«v»"}]}}]}),
    ("in a name/value pair", {"environment": [{"name": "PORT", "value": "80"}, {"name": "«UPPER»", "value": "«v»"}]}),
    ("in a header object", {"method": "GET", "headers": {"«Header»": "«v»"}}),
    ("in an argument vector", {"argv": ["deploy", "--«kebab»", "«v»", "--dry-run"]}),
    ("in json text", '{"host": "db", "«snake»": "«v»", "port": 5432}'),
    ("in tight json text", '{"host":"db","«camel»":"«v»","port":5432}'),
    ("in escaped json text", '{\\"host\\": \\"db\\", \\"«snake»\\": \\"«v»\\"}'),
    ("in an env file", "# production\nLOG_LEVEL=info\n«UPPER»=«v»\nPORT=8080\n"),
    ("in an env file with quotes", "LOG_LEVEL='info'\n«UPPER»='«v»'\n"),
    ("in a shell export", 'export «UPPER»="«v»" && ./deploy.sh --env prod'),
    ("before a command", "«UPPER»=«v» python -m worker"),
    ("in printenv output", "HOME=/root\nSHLVL=1\n«UPPER»=«v»\nPWD=/app\n"),
    ("in yaml", "app:\n  name: billing\n  «snake»: «v»\n  retries: 3\n"),
    ("in yaml with quotes", 'services:\n  web:\n    environment:\n      «UPPER»: "«v»"\n'),
    ("in a compose list", "    environment:\n      - TZ=UTC\n      - «UPPER»=«v»\n"),
    ("in ini", "[service]\nhost = localhost\n«snake» = «v»\n"),
    ("in toml", '[service]\nport = 8080\n«snake» = "«v»"\n'),
    ("in java properties", "server.port=8080\n«dotted»=«v»\n"),
    ("in python source", 'import os\n\n«UPPER» = "«v»"\nclient = Client(«UPPER»)\n'),
    ("in a python keyword argument", "client = Client(host='db', «snake»='«v»', timeout=5)"),
    ("in a python dict", "{'host': 'db', '«snake»': '«v»', 'port': 5432}"),
    ("in js source", "const «camel» = '«v»';\nmodule.exports = { «camel» };"),
    ("in a js object", 'const cfg = { host: "db", «camel»: "«v»" };'),
    ("in java source", 'private static final String «UPPER» = "«v»";'),
    ("in go source", '«camel» := "«v»"\nclient := New(«camel»)'),
    ("in c# source", 'var options = new Options { «pascal» = "«v»" };'),
    ("in php source", "define('«UPPER»', '«v»');"),
    ("in ruby source", "config[:«snake»] = '«v»'"),
    ("in xml", "<config><«camel»>«v»</«camel»></config>"),
    ("in an xml attribute", '<service host="db" «camel»="«v»" />'),
    ("in a query string", "GET https://api.example.com/v1/items?page=2&«snake»=«q»&sort=asc"),
    ("in a form body", "POST /login\n\ngrant=client&«snake»=«q»"),
    ("in a logfmt line", 'level=info ts=«sec» msg="connected" «snake»=«v» took=12ms'),
    ("in a json log line", '{"level":"debug","ts":«ms»,"msg":"config","«snake»":"«v»"}'),
    ("in a log of a dict", "«date» «time» DEBUG config loaded: {'region': 'eu', '«snake»': '«v»'}"),
    ("in an http header", "POST /v2/jobs HTTP/1.1\nHost: api.example.com\n«Header»: «v»\nContent-Length: 0\n"),
    ("in a curl header", 'curl -H "«Header»: «v»" https://api.example.com/v1/jobs'),
    ("as a flag with =", "tool login --user ops --«kebab»=«v» --verbose"),
    ("as a flag with a space", "tool login --«kebab» «v» --verbose"),
    ("in docker run", "docker run -d -e «UPPER»=«v» -p 80:80 acme/web:«ver»"),
    ("in a dockerfile", 'FROM python:3.12\nENV «UPPER»=«v»\nCMD ["app"]\n'),
    ("in terraform", 'variable "region" {}\n\n«snake» = "«v»"\n'),
    ("in powershell", '$env:«UPPER» = "«v»"; ./run.ps1'),
    ("in cmd", "set «UPPER»=«v»\r\nrun.bat\r\n"),
    ("in traceback locals", "File app.py, line «int», in connect\n  locals:\n    user = 'ops'\n    «snake» = '«v»'\n"),
    ("in a validation error", "ValidationError: 1 error\n«snake»\n  too long [input_value='«v»', input_type=str]"),
    ("in a markdown item", "- **«Words»**: `«v»`\n- **Region**: eu-west-1\n"),
    ("in a markdown row", "| Setting | Value |\n|---|---|\n| «UPPER» | `«v»` |\n"),
    ("in sql settings", "INSERT INTO settings (name, value) VALUES ('«snake»', '«v»');"),
    ("in chat", "Here you go, the «words» is «v» - please keep it safe."),
    ("in chat with a colon", "«Words»: «v»\nLet me know when you are in."),
    ("in chat beside french", "Bonjour, voici la valeur de «UPPER» : «v». Merci d'avance !"),
    ("in chat beside german", "Für die Prüfung bitte «UPPER»=«v» setzen, schöne Grüße"),
    ("in chat beside chinese", "环境变量 «UPPER»=«v»，请不要泄露"),
    ("with an error", "401 Unauthorized: invalid «words»: «v»"),
]
# Contexts that only suit one sort of secret.
_CREDENTIAL_TEXTS: list[Row] = [
    ("basic header", {"headers": {"Authorization": "Basic ‹«basic»›"}}),
    ("basic header in curl", "curl -H 'Authorization: Basic ‹«basic»›' https://api.example.com"),
    ("proxy header", "CONNECT api:443 HTTP/1.1\r\nProxy-Authorization: Basic ‹«basic»›\r\n\r\n"),
    ("opaque bearer header", {"request": {"headers": {"authorization": "Bearer ‹«opaque»›"}}}),
    ("opaque bearer in http dump", "GET / HTTP/1.1\r\nAuthorization: Bearer ‹«opaque»›\r\nAccept: */*\r\n\r\n"),
    ("token header", "Authorization: Token ‹«h40»›"),
    ("ssws header", "curl -H 'Authorization: SSWS ‹00«s40»›' https://acme.okta.com/api/v1/users"),
    ("api key header in aws style", {"headers": {"x-api-key": "‹«w40»›", "content-type": "application/json"}}),
    ("private-token header", "curl --header 'PRIVATE-TOKEN: ‹«s20»›' https://git.example.com/api/v4/projects"),
    ("session cookie header", "GET /cart HTTP/1.1\nCookie: lang=en; sessionid=‹«l32»›; theme=dark\n"),
    ("set-cookie header", "HTTP/1.1 200 OK\nSet-Cookie: session=‹«s43»›; Path=/; HttpOnly; Secure; SameSite=Lax\n"),
    ("cookie object", {"cookies": {"PHPSESSID": "‹«l26»›", "lang": "de"}}),
    ("cookie in curl", "curl -b 'JSESSIONID=‹«H32»›' https://portal.example.com/report"),
    ("user and password in curl", "curl -u admin:‹«pw»› https://api.example.com/status"),
    ("user and password in quotes in curl", "curl --user 'svc:‹«pw»›' -X POST https://api.example.com/jobs"),
    ("user and password in wget", "wget --user=ops --password='‹«pw»›' https://files.example.com/a.zip"),
    ("mysql command", "mysql -h db -u root -p‹«word»«d4»› shop -e 'select 1'"),
    ("pgpassword", "PGPASSWORD=‹«pw»› psql -h db -U app -c 'select 1'"),
    ("sshpass", "sshpass -p '‹«pw»›' ssh root@«ip» uptime"),
    ("docker login", "docker login -u ci -p ‹«pw»› registry.example.com"),
    ("redis-cli", "redis-cli -h cache -a ‹«w20»› ping"),
    ("netrc", "machine git.example.com\n  login ci\n  password ‹«pw»›\n"),
    ("pgpass", "# ~/.pgpass hostname:port:database:username:password\ndb.internal:5432:orders:app:‹«w16»›\n"),
    ("npmrc", "registry=https://npm.example.com/\n//npm.example.com/:_authToken=‹«uuid»›\n"),
    ("pypirc", "[pypi]\nrepository = https://pypi.example.com\nusername = ci\npassword = ‹«pw»›\n"),
    ("docker config", {"auths": {"registry.example.com": {"auth": "‹«basic»›"}}}),
    ("aws credentials file", "[default]\naws_access_key_id = ‹AK|IA«t16»›\naws_secret_access_key = ‹«b40»›\n"),
    ("oauth response", {"access_token": "‹«s64»›", "expires_in": 3600, "refresh_token": "‹«s43»›"}),
    ("login arguments", {"url": "https://shop.example.com/login", "username": "«first»", "password": "‹«pw»›"}),
    ("login form", "username=«first»&password=‹«pw»›&remember=1"),
    ("connect call", 'psycopg.connect(host="db", user="app", password="‹«pw»›", dbname="orders")'),
    ("create user", "CREATE USER app WITH PASSWORD '‹«pw»›';"),
    ("alter role", "ALTER ROLE app WITH LOGIN ENCRYPTED PASSWORD '‹«pw»›' VALID UNTIL 'infinity';"),
    ("identified by", "CREATE USER 'app'@'%' IDENTIFIED BY '‹«pw»›';"),
    ("kafka jaas", 'sasl.jaas.config=PlainLoginModule required username="svc" password="‹«w32»›";'),
    ("kafka client config", {"bootstrap.servers": "k:9092", "sasl.username": "svc", "sasl.password": "‹«w32»›"}),
    ("kubernetes secret", "kind: Secret\nmetadata:\n  name: db\ndata:\n  password: ‹«x64»›\n"),
    ("kubernetes stringdata", "kind: Secret\nstringData:\n  DB_PASSWORD: ‹«pw»›\n"),
    ("spring yaml", "spring:\n  datasource:\n    username: app\n    password: ‹«pw»›\n"),
    ("django settings", "DATABASES = {'default': {'USER': 'app', 'PASSWORD': '‹«pw»›', 'HOST': 'db'}}"),
    ("securestring", 'ConvertTo-SecureString "‹«pw»›" -AsPlainText -Force'),
    ("html form value", '<input type="password" name="password" value="‹«pw»›">'),
    ("english prose", "Log in as admin, the password is ‹«pw»›."),
    ("english prose with quotes", 'Your temporary password is "‹«pw»›", change it after login.'),
    ("english prose with an api key", "use the API key ‹«h32»› for staging"),
    ("english prose with pw", "login: admin / pw: ‹«pw»›"),
    ("german prose", "Der Benutzer ist admin, das Passwort lautet ‹«pw»›."),
    ("german prose with a colon", "Zugang für die Prüfumgebung\nKennwort: ‹«pw»›\n"),
    ("french prose", "Le mot de passe est ‹«pw»›, ne le partagez pas."),
    ("spanish prose", "La contraseña es ‹«pw»›, ¿funciona?"),
    ("italian prose", "La password è ‹«pw»›"),
    ("portuguese prose", "A senha é ‹«pw»›."),
    ("dutch prose", "Het wachtwoord is ‹«pw»›"),
    ("polish prose", "Hasło: ‹«pw»›"),
    ("russian prose", "Пароль: ‹«pw»›"),
    ("chinese prose", "登录密码是‹«pw»›，请妥善保管"),
    ("japanese prose", "パスワードは‹«pw»›です"),
]
_JWT_TEXTS: list[Row] = [
    ("in an access_token field", {"access_token": "«v»", "token_type": "Bearer", "expires_in": 3600}),
    ("in an id_token field", {"response": {"idToken": "«v»"}}),
    ("in a cookie", "Cookie: lang=en; auth=«v»; theme=dark"),
    ("in a fragment", "https://app.example.com/callback#id_token=«v»&state=«h8»"),
    ("in a websocket url", "wss://rt.example.com/socket?apikey=«v»&vsn=1.0.0"),
    ("in an env file", "SUPABASE_URL=https://x.example.co\nSUPABASE_SERVICE_ROLE_KEY=«v»\n"),
    ("in an error", "jwt.exceptions.ExpiredSignatureError: Signature has expired: «v»"),
]
_CONNECTION_TEXTS: list[Row] = [
    ("in an env file", "APP_ENV=prod\nDATABASE_URL=«v»\nWORKERS=4\n"),
    ("in an export", 'export SERVICE_URL="«v»"'),
    ("under a url key", {"settings": {"url": "«v»", "poolSize": 10}}),
    ("under a connectionString key", {"ConnectionStrings": {"connectionString": "«v»"}}),
    ("in python source", 'engine = create_engine("«v»", pool_pre_ping=True)'),
    ("in yaml", 'production:\n  url: "«v»"\n  pool: 5\n'),
    ("in a failed connection", "OperationalError: could not connect to «v» (timeout after 5s)"),
    ("in a start log", "«date»T«time»Z INFO starting worker with broker=«v» concurrency=8"),
    ("in chat", "can you check whether «v» is reachable from staging?"),
]
_CARD_TEXTS: list[Row] = [
    ("under card_number", {"card_number": "«v»", "exp_month": 12, "exp_year": 2028}),
    ("in a payment call", {"amount": 4200, "payment_method": {"card": {"number": "«v»", "cvc": "«d3»"}}}),
    ("in prose", "My card number is «v», it expires 09/28."),
    ("in german prose", "Bitte die Karte «v» (gültig bis 09/28) belasten."),
    ("in json text", '{"pan":"«v»","amount":"«price»"}'),
    ("in xml", "<Card><Number>«v»</Number><Exp>0928</Exp></Card>"),
    ("in a form body", "amount=«price»&card=«v»&currency=EUR"),
    ("in a payment log", "«time» charge declined pan=«v» code=51 amount=«price»"),
    ("in sql", "SELECT * FROM payments WHERE pan = '«v»' LIMIT 1"),
]
_EMAIL_TEXTS: list[Row] = [
    ("under an email key", {"customer": {"email": "«v»", "name": "«First»"}}),
    ("in recipients", {"to": ["«v»"], "cc": [], "subject": "Invoice «int»"}),
    ("in a from header", "From: «First» «Last» <«v»>\nSubject: Order «int»\n"),
    ("in a mailto link", '<a href="mailto:«v»?subject=Hi">write</a>'),
    ("in a git log", "commit «h40»\nAuthor: «First» «Last» <«v»>\nDate:   Mon Mar 3 10:15:00 2025 +0100\n"),
    ("in a csv file", "id,name,email\n«int»,«First»,«v»\n"),
    ("in sql", "SELECT id FROM users WHERE email = '«v»'"),
    ("in a query string", "https://crm.example.com/search?email=«q»&page=1"),
    ("in an smtp error", "550 5.1.1 <«v»>: Recipient address rejected: User unknown"),
    ("in a unique violation", "DETAIL:  Key (email)=(«v») already exists."),
    ("in prose", "please forward it to «v», thanks"),
    ("in spanish prose", "Mi correo es «v»."),
]
# All of these tell that a phone number follows.
_PHONE_TEXTS: list[Row] = [
    ("under phone", {"customer": {"phone": "«v»", "country": "any"}}),
    ("under phoneNumber", {"phoneNumber": "«v»", "channel": "sms"}),
    ("under mobile", {"contacts": [{"mobile": "«v»"}]}),
    ("in json text", '{"name": "«First»", "phone_number": "«v»"}'),
    ("in a signature", "Kind regards\n«First» «Last»\nTel.: «v»\n"),
    ("in prose", "please call me at «v» after 5pm"),
    ("in prose with phone", "My phone number is «v», thanks."),
    ("in german prose", "Sie erreichen mich telefonisch unter «v»."),
    ("in german prose with a colon", "Telefon: «v», Büro im 2. Stock"),
    ("in french prose", "Mon numéro de téléphone est le «v»."),
    ("in spanish prose", "Mi teléfono es «v», gracias"),
    ("in a vcard", "BEGIN:VCARD\nFN:«First» «Last»\nTEL;TYPE=cell:«v»\nEND:VCARD\n"),
    ("in yaml", 'customer:\n  name: «First»\n  phone: "«v»"\n'),
    ("in a csv file", "id,name,phone\n«int»,«First»,«v»\n"),
    ("in an sms log", '«time» sms gateway: sent to phone="«v»" status=delivered'),
]
_PEM_TEXTS: list[Row] = [
    ("as the bare value", "«pem»"),
    ("as a file written by a tool", {"path": "/root/.ssh/id_rsa", "content": "«pem»\n"}),
    ("under private_key", {"type": "service_account", "private_key_id": "«h40»", "private_key": "«pem»\n"}),
    ("in shell output", "$ cat ~/.ssh/id_rsa\n«pem»\n$ exit\n"),
    ("in a heredoc", "cat > key.pem <<'EOF'\n«pem»\nEOF\nchmod 600 key.pem"),
    ("in a markdown fence", "Here is the key:\n\n```\n«pem»\n```\n\nKeep it."),
    ("in python source", 'KEY = """«pem»"""\n'),
    ("with escapes in an env file", 'NODE_ENV=production\nTLS_KEY="«esc»\\n"\n'),
    ("with escapes in json text", '{"client": "«word»", "private_key": "«esc»\\n", "v": 1}'),
    ("with escapes in a log line", "«date» ERROR cannot load key '«esc»': bad decrypt"),
    ("with double escapes", '{\\"private_key\\": \\"«escb»\\"}'),
    ("with windows newlines", "Content-Type: application/x-pem-file\r\n\r\n«crlf»\r\n"),
    ("indented in yaml", "tls:\n  key: |\n«indent»\n  port: 443\n"),
    ("quoted in an e-mail", "You wrote:\n«quoted»\n\nThis key is wrong."),
    ("flattened to one line", "key: «flat» (from the vault)"),
    ("joined in python source", "KEY = (\n«joined»\n)\n"),
    ("cut off before its end", "reading server.key ...\n«cut»\n... [output truncated]"),
    ("after chinese text", "私钥如下：\n«pem»\n请勿外传"),
]

# --- clean cases -------------------------------------------------------------------------------------------------

_CLEAN: list[Row] = [
    # ids, digests, and encoded data
    ("uuid", "«uuid»"),
    ("uuids in a list", {"ids": ["«uuid»", "«uuid»", "«uuid»"]}),
    ("uuid in a log line", "«date» «time» INFO request «uuid» finished in «int» ms"),
    ("ulid", {"event_id": "«ulid»"}),
    ("nanoid", {"id": "«s21»", "name": "«word»"}),
    ("mongo object id", {"_id": "«h24»", "status": "open"}),
    ("git sha", {"repo": "acme/app", "sha": "«h40»"}),
    ("commit list", "«h40» Fix the «word» job\n«h40» Rename password field\n«h40» Bump to «ver»\n"),
    ("short commits", "«h7» Add token counting\n«h7» Remove secret santa page\n«h7» Merge branch 'main'\n"),
    ("merge base", "git diff «h40»..«h40» -- src/auth.py"),
    ("sha256 digest", {"file": "report.pdf", "sha256": "«h64»"}),
    ("sha256sum output", "«h64»  dist/app-«ver».tar.gz\n«h64»  dist/app-«ver»-py3-none-any.whl\n"),
    ("md5 digest", {"name": "photo.jpg", "md5": "«h32»", "size": "№«d5»1"}),
    ("docker digest", "docker pull nginx@sha256:«h64»"),
    ("docker ps", "CONTAINER ID   IMAGE     STATUS\n«h12»   redis:7   Up 3 hours\n«h12»   web:1     Up 2 days\n"),
    ("etag", 'HTTP/1.1 200 OK\nETag: "«h32»"\nCache-Control: no-cache\nContent-Length: «int»\n'),
    ("npm integrity", {"node_modules/left-pad": {"version": "«ver»", "integrity": "sha512-«b86»=="}}),
    ("pip hashes", "requests==2.31.0 \\\n    --hash=sha256:«h64» \\\n    --hash=sha256:«h64»\n"),
    ("go.sum", "golang.org/x/text v0.14.0 h1:«b43»=\ngolang.org/x/text v0.14.0/go.mod h1:«b43»=\n"),
    ("base64 image", {"mimeType": "image/png", "data": "iVBORw0KGgoAAAANSUhEUgAA«b400»AAAAAElFTkSuQmCC"}),
    ("data url", '<img src="data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA«b200»=" alt="logo">'),
    ("base64 text", {"encoding": "base64", "content": "«text64»"}),
    ("embedding bytes", {"object": "embedding", "embedding": "«b340»", "index": 0}),
    ("trace ids", {"trace_id": "«h32»", "span_id": "«h16»", "parent_span_id": "«h16»"}),
    ("traceparent", "traceparent: 00-«h32»-«h16»-01"),
    ("idempotency key", {"headers": {"Idempotency-Key": "«h32»"}}),
    ("idempotency key of a uuid", {"idempotency_key": "«uuid»", "amount": "№«d3»0"}),
    ("request id", "x-request-id: «uuid»\nx-amzn-trace-id: Root=1-«h8»-«h24»\n"),
    ("stripe ids", {"customer": "cus_«w14»", "charge": "ch_3«w23»", "payment_intent": "pi_3«w23»"}),
    ("more stripe ids", "subscription sub_1«w23» of price_1«w23» renewed, invoice in_1«w23» paid"),
    ("aws arn", {"Role": "arn:aws:iam::«d12»:role/orders-reader"}),
    ("aws secret arn", "arn:aws:secretsmanager:eu-west-1:«d12»:secret:prod/db/password-«w6»"),
    ("aws resource ids", {"VpcId": "vpc-0«h16»", "Subnets": ["subnet-0«h16»"], "ImageId": "ami-0«h16»"}),
    ("slack ids", {"channel": "C0«u9»", "user": "U0«u9»", "ts": "«sec».«d6»"}),
    ("openai ids", {"id": "chatcmpl-«w29»", "model": "gpt-4o", "system_fingerprint": "fp_«h10»"}),
    ("tool call ids", [{"id": "call_«w24»", "name": "search"}, {"tool_use_id": "toolu_01«w22»", "content": "ok"}]),
    ("google client id", {"client_id": "1«d11»-«l32».apps.googleusercontent.com"}),
    ("drive file id", "https://drive.google.com/file/d/1«s32»/view"),
    ("youtube link", "https://www.youtube.com/watch?v=«w11»&t=42s"),
    ("eth address", {"to": "0x«h40»", "tx": "0x«h64»", "gas": 21000}),
    ("public rsa key", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC«b340» deploy-key"),
    ("public ed25519 key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI«b43» laptop"),
    ("known hosts", "github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI«b43»\n"),
    ("ssh fingerprint", "256 SHA256:«b43» deploy (ED25519)"),
    ("pem public key", "-----BEGIN PUBLIC KEY-----\n«lines»\n-----END PUBLIC KEY-----\n"),
    ("pem certificate", {"ca.crt": "-----BEGIN CERTIFICATE-----\n«lines»\n«lines»\n-----END CERTIFICATE-----\n"}),
    ("certificate request", "-----BEGIN CERTIFICATE REQUEST-----\n«lines»\n-----END CERTIFICATE REQUEST-----"),
    ("pgp public key", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n«lines»\n=«b4»\n-----END PGP PUBLIC KEY BLOCK-----"),
    ("pgp signature", "-----BEGIN PGP SIGNATURE-----\n\n«lines»\n=«b4»\n-----END PGP SIGNATURE-----"),
    ("age public key", "recipients: age1qy«l56»"),
    # numbers
    ("16 digits failing luhn", {"id": "«badcard»"}),
    ("16 digits failing luhn in prose", "Contract «badcard» was signed on «date»."),
    ("16 digits of no issuer", "reference «oddcard», booked «date»"),
    ("snowflake id", {"tweet_id": "1«d18»"}),
    ("number as an id", {"id": "№1«d17»"}),
    ("ten-digit id", {"order_id": "«n1»«d9»", "customer_id": "«n1»«d8»"}),
    ("order number", "Your order 1«d2»-«d7»-«d7» has shipped."),
    ("ups tracking number", {"carrier": "UPS", "tracking": "1Z«u6»«d10»"}),
    ("postal tracking number", "Sendung RR1«d8»DE ist unterwegs"),
    ("invoice number", {"invoice": "INV-2025-«d6»", "total": "№«price»"}),
    ("invoice text", "Rechnung Nr. 2025/«d5» vom «date» über «price» EUR"),
    ("ticket number", "E-ticket 220-1«d9» for «First», seat 14C"),
    ("record locator", {"pnr": "«C6»", "flight": "LX«d3»", "passenger": "«First» «Last»", "document": "boarding pass"}),
    ("isbn", {"title": "Data and Reality", "isbn": "«isbn»"}),
    ("ean", "EAN «ean», 6 pieces"),
    ("sku", {"items": [{"sku": "SKU-«C3»-«d4»-«C1»", "qty": 2, "price": "№«price»"}]}),
    ("prices", "Total: $«price» (was $«price»), tax €«price», fee CHF 1'250.00"),
    ("long decimals", [0.30000000000000004, 3.141592653589793, 2.718281828459045, -1.4142135623730951]),
    ("long decimals in text", "loss=0.0«n1»«d15» lr=0.0003 grad_norm=1.«d15»"),
    ("coordinates", {"lat": "№47.3«d13»", "lon": "№8.5«d13»"}),
    ("embedding", {"vector": ["№0.0«d14»1", "№-0.0«d14»1", "№0.1«d14»1"]}),
    ("epoch millis", {"created": "№«ms»", "updated": "№«ms»"}),
    ("epoch in text", "window «ms»..«ms», watermark «sec»"),
    ("nanoseconds", "start=17«d17» end=17«d17»"),
    ("timestamps", "«date»T«time».«d6»+00:00 to «date»T«time»Z"),
    ("ip addresses", "«ip» -> «ip»:8443, 192.168.1.1, 127.0.0.1, fe80::1ff:fe23:4567:890a"),
    ("mac address", "eth0 ether 02:42:ac:«h2»:«h2»:«h2» mtu 1500"),
    ("versions", "python 3.11.7, node v20.11.1, app «ver»-rc.1+build.«d4»"),
    ("packages with versions", "npm i react@18.2.0 @types/node@20.11.5 lodash@4.17.21"),
    (
        "number table",
        "| month | orders | sum |\n|---|---|---|\n| 2025-01 | «int» | «price» |\n| 2025-02 | «int» | «price» |\n",
    ),
    ("math", "f(x) = 3x^2 + 2x - 1, so f'(x) = 6x + 2 and f(12) = 455"),
    ("iso dates and times", "2025-03-01 10:15:00; 01.03.2025 10:15; 03/01/2025; 20250301T101500Z"),
    (
        "ls output",
        "-rw-r--r-- 1 root root «d7» Mar  3 10:15 passwords.md\ndrwxr-xr-x 2 root root 4096 Mar  3 secrets\n",
    ),
    ("process list", "root   «d5»  0.0  0.1 «d6» «d5» ?  Ss  10:15  0:00 /usr/sbin/sshd -D"),
    ("metrics", 'http_requests_total{method="post",code="200"} «int» «ms»\ntokens_used_total «int»\n'),
    # urls and paths
    ("page token in a url", "https://api.example.com/v1/items?page_size=50&page_token=«w24»"),
    ("cursor in a url", "https://api.example.com/orders?cursor=«text64»&limit=100"),
    ("utm link", "https://example.com/?utm_source=news&utm_medium=mail&utm_campaign=spring_«d4»&gclid=«w40»"),
    ("url with ids", "https://shop.example.com/p/«d7»?variant=«d9»&ref=home#reviews"),
    ("url with a uuid", "GET /api/v2/tickets/«uuid»/comments?expand=author HTTP/1.1"),
    ("git url", "git clone https://github.com/acme/secret-santa.git && cd secret-santa"),
    ("database url without a password", "postgres://localhost:5432/orders?sslmode=disable"),
    ("redis url without a password", "REDIS_URL=redis://cache:6379/0"),
    ("database url with variables", "DATABASE_URL=postgres://${DB_USER}:${DB_PASSWORD}@db:5432/app"),
    ("database url with placeholders", "postgresql://<user>:<password>@<host>:5432/<db>"),
    ("file paths", "/etc/ssl/private/server.key\n~/.ssh/id_rsa.pub\n/run/secrets/db_password\nC:\\ops\\token.txt"),
    ("object key", {"Bucket": "exports", "Key": "year=2025/month=03/part-«d5»-«uuid».snappy.parquet"}),
    ("webhook docs", "https://hooks.slack.com/services/<team>/<bot>/<token>"),
    # passwords and tokens without a value
    ("python about passwords", "def check_password(user, password):\n    return verify(user.pw_hash, password)\n"),
    ("python annotations", "class Login(BaseModel):\n    name: str\n    password: str\n    token: str | None = None\n"),
    ("python environ", 'API_KEY = os.environ["API_KEY"]\ntoken = os.getenv("GITHUB_TOKEN", "")\n'),
    ("python getpass", 'password = getpass.getpass("Password: ")\nif password != confirm_password:\n    return\n'),
    ("python request form", 'password = request.form["password"]\nself.token = token\nsecret = get_secret("db")\n'),
    ("python settings", "client = Client(api_key=settings.api_key, password=config.password)"),
    (
        "python test names",
        "tests/test_auth.py::test_password_reset PASSED\ntests/test_auth.py::test_token_old PASSED\n",
    ),
    ("js env", "const apiKey = process.env.STRIPE_SECRET_KEY;\nconst { password } = req.body;"),
    ("ts interface", "interface Credentials { username: string; password: string; accessToken?: string }"),
    ("java code", "private String password;\npublic void setPassword(String password) { this.password = password; }"),
    ("go struct", 'type User struct {\n\tPassword string `json:"-"`\n\tToken    *Token `json:"token"`\n}'),
    ("sql about passwords", "SELECT id, password_hash FROM users WHERE password IS NOT NULL AND token > 0;"),
    ("sql ddl", "CREATE TABLE users (id uuid PRIMARY KEY, password varchar(255) NOT NULL, api_key text UNIQUE);"),
    ("html password input", '<label>Password</label><input type="password" name="password" placeholder="Password">'),
    ("css", ".password-field { color: #«h6»; margin: 0 auto } #token::after { content: '' }"),
    ("shell variable", 'curl -H "Authorization: Bearer $API_TOKEN" -u "$USER:$PASS" https://api.example.com'),
    ("shell secret lookup", "export DB_PASSWORD=$(vault kv get -field=password secret/db)"),
    ("compose variable", "environment:\n  DB_PASSWORD: ${DB_PASSWORD}\n  API_KEY: ${API_KEY:?missing}\n"),
    ("actions secret", "env:\n  NPM_TOKEN: ${{ secrets.NPM_TOKEN }}\n  password: ${{ secrets.DOCKER_PASSWORD }}\n"),
    ("jinja variable", "password: {{ db_password }}\napi_key: {{ lookup('env', 'API_KEY') }}\n"),
    ("terraform variable", 'password = var.db_password\ntoken    = data.vault_generic_secret.ci.data["token"]\n'),
    ("kubernetes reference", "valueFrom:\n  secretKeyRef:\n    name: db-credentials\n    key: password\n"),
    ("env example", "API_KEY=<your-api-key>\nDB_PASSWORD=\nTOKEN=YOUR_TOKEN_HERE\nSECRET_KEY=xxxxxxxx\n"),
    ("placeholder key", {"api_key": "YOUR_API_KEY", "base_url": "https://api.example.com"}),
    ("masked password", {"username": "ops", "password": "********"}),
    ("redacted header", "Authorization: Bearer [REDACTED]\nX-Api-Key: <redacted>\n"),
    ("empty password", {"user": {"password": "", "token": None, "secret": False}}),
    ("bearer placeholder", "Authorization: Bearer <token>"),
    ("token counts", {"token_count": 512, "max_tokens": 1024, "usage": {"prompt_tokens": "№«int»"}}),
    ("token texts", {"max_tokens": "4096", "tokenizer": "cl100k_base", "token_type": "Bearer", "token_limit": "№«d5»"}),
    ("log probabilities", {"content": [{"token": " the", "logprob": -0.31}, {"token": "Hello", "logprob": -0.02}]}),
    ("nlp tokens", {"tokens": ["the", "quick", "##est", "fox"], "pos": ["DET", "ADJ", "ADJ", "NOUN"]}),
    ("next page token", {"items": [], "next_page_token": "CAUQAA«w20»"}),
    ("continuation token", {"IsTruncated": True, "NextContinuationToken": "1«b60»="}),
    ("cursor", {"pageInfo": {"hasNextPage": True, "endCursor": "Y3Vyc29yOnYyOpK5«w20»=="}}),
    ("json cursor", {"has_more": True, "after": "eyJpZCI6MTA0«w8»In0="}),
    ("sync token", {"kind": "calendar#events", "nextSyncToken": "CPDAlvWDx70CEPDAlvWDx70CGAU=", "items": []}),
    ("json schema", {"type": "object", "properties": {"password": {"type": "string"}}, "required": ["password"]}),
    ("tool schema", {"name": "login", "input_schema": {"properties": {"api_key": {"description": "The API key"}}}}),
    ("password policy", {"password_policy": "12 characters", "password_changed_at": "«date»", "has_password": True}),
    ("keys that are no secrets", {"primary_key": "customer_id", "cache_key": "user:«int»:profile", "key": "PROJ-«d4»"}),
    ("sort and partition keys", {"PartitionKey": "tenant#«int»", "SortKey": "order#«date»", "public_key_id": "k-«d3»"}),
    ("secret names", {"secret_name": "prod/db/password", "secretVersion": "№«d2»1", "credential_type": "oauth2"}),
    ("words with key", "The keyboard, a monkey, the keynote, and a turkey: keyword search found «int» hits."),
    ("words with pass and secret", "The secretary will bypass the compass; «int» tests passed, passengers boarded."),
    ("test summary", "===== «int» passed, 3 skipped in 12.45s =====\nbypass=true author=«First» pass=12 fail=0\n"),
    ("prefixes in docs", "GitHub tokens begin with ghp_ or github_pat_, Slack ones with xoxb-, AWS key ids with AKIA."),
    (
        "words like prefixes",
        "task-management-list desk-lamp sk-SK risk-assessment-2025 xaiming hf_weights key-value npm_config",
    ),
    ("dotted names", "acme.billing.invoices.service.InvoiceService.create; a.b.c; www.example.com; eyJ.not.a"),
    ("auth error", "401 Unauthorized: the token is expired or invalid"),
    ("password errors", "password is too short; password: must not be empty; passwd: unknown option"),
    ("missing key", "ConfigError: API key is missing, set API_KEY or pass api_key= to the client"),
    ("password reset prose", "The password was reset yesterday and the token is valid for 15 minutes."),
    ("password prose", "My password is not working and the secret: nobody told me why."),
    ("secret prose", "The secret is patience. The key to success: practice."),
    ("bearer prose", "A bearer token is required; basic authentication is not supported."),
    ("german prose", "Das Passwort wurde zurückgesetzt, der Schlüssel liegt im Büro. Das Kennwort ist abgelaufen."),
    ("french prose", "Le mot de passe est expiré ; la clé se trouve à l'accueil."),
    ("spanish prose", "La contraseña es incorrecta. ¿Olvidó su clave?"),
    ("italian prose", "La password è scaduta, il gettone non è valido."),
    ("portuguese prose", "A senha é obrigatória e deve ter oito caracteres."),
    ("dutch prose", "Het wachtwoord is verlopen."),
    ("polish prose", "Hasło jest wymagane."),
    ("russian prose", "Пароль: обязательное поле. Ключ найден под ковриком."),
    ("chinese prose", "密码是必填项，令牌已过期。"),
    ("japanese prose", "パスワードは必須です。鍵は机の上にあります。"),
    # what agents see all day
    ("shop order", {"order_id": "№«d7»1", "status": "paid", "total": "№«price»", "items": [{"qty": 1}]}),
    ("support ticket", {"ticket": "TCK-«d6»", "priority": "high", "subject": "Cannot log in after password change"}),
    ("flight", {"flight": "LH«d4»", "from": "ZRH", "to": "JFK", "departs": "«date»T«time»Z", "seats": ["12A", "12B"]}),
    ("refund", {"refund_id": "re_3«w23»", "amount_cents": "№1«d4»", "reason": "duplicate"}),
    ("weather", {"city": "Bern", "temp_c": "№«d1».5", "humidity": 81, "pressure": 1013.25}),
    ("search results", [{"title": "How to store passwords", "url": "https://example.org/a/«d5»", "score": 0.87}]),
    ("kafka record", {"topic": "orders.v1", "partition": 3, "offset": "№1«d9»", "key": "order-«d6»", "headers": {}}),
    ("kubectl output", "NAME                     READY   STATUS\nweb-«h10»-«l5»   1/1     Running\n"),
    (
        "stack trace",
        "java.lang.IllegalStateException: no token\n\tat acme.auth.TokenStore.get(TokenStore.java:«int»)\n",
    ),
    ("python traceback", "Traceback (most recent call last):\n  File /app/auth.py, line «int»\nKeyError: 'password'\n"),
    (
        "http response",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-RateLimit-Remaining: «d3»\r\nAge: «d4»\r\n\r\n",
    ),
    ("diff", "@@ -«d2»,7 +«d2»,7 @@\n-    password = None\n+    password = read_password(path)\n"),
    ("markdown", "# Release «ver»\n\n- rotate keys\n- new *token* page\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"),
    ("english chat", "Could you compare the two vendors and put the summary into the «word» folder by Friday?"),
    ("german chat", "Können Sie mir bitte die Lieferzeiten für Artikel «d6» nennen? Größe M, zwei Stück."),
    ("french chat", "Pourriez-vous vérifier la commande n° «d6» passée le «date» ?"),
    ("chinese chat", "请帮我查询订单 «d6» 的物流状态，下单日期是 «date»。"),
    ("arabic chat", "أين طلبي رقم «d6»؟ تم الدفع يوم «date»."),
    ("plain number", {"count": "№«int»", "ratio": "№0.«d3»1", "ok": True, "note": None}),
]

# --- the generators ----------------------------------------------------------------------------------------------

# What a case is wrapped in: itself, results of tools, chat messages, JSON as text once and twice.
_SHAPES: list[Callable[[Any], Any]] = [
    *[lambda v: v] * 5,
    lambda v: {"input": v},
    lambda v: [v, {"ok": True}],
    lambda v: {"content": [{"type": "text", "text": v}], "isError": False},
    lambda v: {"choices": [{"index": 0, "message": {"role": "assistant", "content": v}}]},
    lambda v: {"stdout": v, "stderr": "", "exit_code": 0},
    lambda v: {"error": {"code": 500, "detail": {"cause": v}}},
    lambda v: json.dumps({"ok": True, "data": v}),
    lambda v: json.dumps([{"step": 1, "output": v}], ensure_ascii=False, indent=2),
    lambda v: {"result": json.dumps({"body": json.dumps({"data": v})})},
]


class _Deck(Generic[T]):
    """Deals its cards in random order, all of them before any again."""

    def __init__(self, rng: Random, cards: list[T]) -> None:
        self._rng, self._cards, self._left = rng, cards, list[T]()

    def deal(self) -> T:
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()


class _Planter:
    """Deals formats and contexts of every kind."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._shapes = _Deck(rng, _SHAPES)
        self._tokens = _Deck(rng, [(row, True) for row in _TOKENS] + [(row, False) for row in _NAMED_TOKENS])
        self._shown = _Deck(rng, [*_PLACES, *_BEARERS, *_KEYED])
        self._keyed = _Deck(rng, _KEYED)
        self._credentials = _Deck(rng, _CREDENTIALS)
        self._credential_texts = _Deck[Row | None](rng, [*_CREDENTIAL_TEXTS, *[None] * len(_KEYED)])
        self._keys = _Deck[Row | Pem](rng, [*_PEMS, *_KEY_TEXTS])
        self._key_texts = _Deck(rng, _PEM_TEXTS)
        self._jwts = _Deck(rng, _JWTS)
        self._jwt_texts = _Deck(rng, [*_PLACES, *_BEARERS, *_JWT_TEXTS, *_JWT_TEXTS, *_KEYED])
        self._connections = _Deck(rng, _CONNECTIONS)
        self._connection_texts = _Deck(rng, [*_PLACES, *_CONNECTION_TEXTS * 2])
        self._cards = _Deck(
            rng, [(*row, gap) for row in _CARDS for gap in (("plain", ""), ("spaced", " "), ("dashed", "-"))]
        )
        self._card_texts = _Deck(rng, [*_PLACES, *_CARD_TEXTS * 2])
        self._emails = _Deck(rng, _EMAILS)
        self._email_texts = _Deck(rng, [*_PLACES, *_EMAIL_TEXTS * 2])
        self._phones = _Deck(rng, [(row, True) for row in _PHONES] + [(row, False) for row in _NATIONAL_PHONES])
        self._phone_texts = _Deck(rng, [*_PLACES, *_PHONE_TEXTS * 2])
        self._phone_hints = _Deck(rng, _PHONE_TEXTS)
        self.kinds: dict[str, Callable[[], Case]] = {
            "api_key": self.api_key,
            "credential": self.credential,
            "private_key": self.private_key,
            "jwt": self.jwt,
            "connection_string": self.connection_string,
            "card": self.card,
            "email": self.email,
            "phone": self.phone,
        }

    def _case(self, kind: str, label: str, value: Any, secrets: tuple[str, ...]) -> Case:
        shaped = self._shapes.deal()(value)
        texts = list(strings_in(shaped))
        kept = all(any(secret in text for text in texts) for secret in secrets)
        return Case(shaped if kept else value, secrets, kind, label)

    def _put(
        self, kind: str, label: str, filled: tuple[str, tuple[str, ...]], context: Row, name: str = "VALUE"
    ) -> Case:
        """Put a value with its secret parts into a context."""
        text, parts = filled
        secrets = (
            tuple(quote(part, safe="") for part in parts or (text,)) if "«q»" in str(context) else parts or (text,)
        )
        value = _fill(self._rng, context[1], {"v": text, "q": quote(text, safe=""), **_names(name)})
        return self._case(kind, f"{label} {context[0]}", value, secrets)

    def api_key(self) -> Case:
        (label, shape, name), shown = self._tokens.deal()
        context = self._shown.deal() if shown else self._keyed.deal()
        return self._put("api_key", label, _marked(self._rng, shape), context, name)

    def credential(self) -> Case:
        if row := self._credential_texts.deal():
            return self._case("credential", row[0], *_marked(self._rng, row[1]))
        label, shape, name = self._credentials.deal()
        return self._put("credential", label, _marked(self._rng, shape), self._keyed.deal(), name)

    def private_key(self) -> Case:
        key = self._keys.deal()
        if len(key) == 2:
            return self._case("private_key", key[0], *_marked(self._rng, key[1]))
        label, armor, start, width, count, head = key
        armor, body = armor.replace("|", ""), _body(self._rng, start, width, count)
        tail = [f"={_chars(self._rng, 'b', 4)}"] if "PGP" in armor else []
        top = [f"-----BEGIN {armor}-----", *_fill(self._rng, head).splitlines()]
        lines = [*top, *body, *tail, f"-----END {armor}-----"]
        shown = len(body) * 2 // 3 + 1
        title, template = self._key_texts.deal()
        forms = {
            "pem": "\n".join(lines),
            "esc": "\\n".join(lines),
            "escb": "\\\\n".join(lines),
            "crlf": "\r\n".join(lines),
            "flat": " ".join(lines),
            "indent": "\n".join(f"    {line}" for line in lines),
            "quoted": "\n".join(f"> {line}" for line in lines),
            "joined": "\n".join(f'    "{line}\\n"' for line in lines),
            "cut": "\n".join([*top, *body[:shown]]),
        }
        secret = self._rng.choice([line for line in body[:shown] if len(line) > 40])
        return self._case("private_key", f"{label} {title}", _fill(self._rng, template, forms), (secret,))

    def jwt(self) -> Case:
        label, header, size = self._jwts.deal()
        parts = [
            _b64url(json.dumps(_fill(self._rng, part), separators=(",", ":")).encode())
            for part in (header, self._rng.choice(_CLAIMS))
        ]
        parts.append(_chars(self._rng, "s", size))
        return self._put("jwt", label, (".".join(parts), (parts[1], parts[2])), self._jwt_texts.deal(), "ACCESS_TOKEN")

    def connection_string(self) -> Case:
        label, shape = self._connections.deal()
        return self._put("connection_string", label, _marked(self._rng, shape), self._connection_texts.deal())

    def card(self) -> Case:
        label, prefixes, length, groups, (style, gap) = self._cards.deal()
        digits = iter(_luhn(self._rng, self._rng.choice(prefixes), length))
        number = gap.join("".join(next(digits) for _ in range(size)) for size in groups)
        return self._put("card", f"{label} {style}", (number, ()), self._card_texts.deal())

    def email(self) -> Case:
        label, shape = self._emails.deal()
        return self._put("email", label, _marked(self._rng, shape), self._email_texts.deal())

    def phone(self) -> Case:
        (label, shape), shown = self._phones.deal()
        context = self._phone_texts.deal() if shown else self._phone_hints.deal()
        return self._put("phone", label, _marked(self._rng, shape), context)


def planted(seed: int, count: int) -> list[Case]:
    """Cases with secrets, of all kinds in turn."""
    kinds = list(_Planter(Random(seed)).kinds.values())
    return [kinds[i % len(kinds)]() for i in range(count)]


def clean(seed: int, count: int) -> list[Case]:
    """Cases without any secret, though they look much like some."""
    rng = Random(seed)
    rows, shapes = _Deck(rng, _CLEAN), _Deck(rng, _SHAPES)
    return [
        Case(shapes.deal()(_fill(rng, template)), (), "clean", label)
        for label, template in (rows.deal() for _ in range(count))
    ]
