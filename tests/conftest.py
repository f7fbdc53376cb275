"""Only the list of fixture modules; each says what it gives."""

pytest_plugins = [
    "tests.fix_answers",
    "tests.fix_aws",
    "tests.fix_stack",
    "tests.fix_oldest",
    "tests.fix_store",
    "tests.fix_recorder",
    "tests.fix_redis",
    "tests.fix_registry",
    "tests.fix_skips",
    "tests.fix_log",
    "tests.fix_pocketbase",
    "tests.fix_refusing_broker",
    "tests.fix_roundup",
    "tests.fix_shop",
    "tests.fix_mariadb",
    "tests.fix_http",
    "tests.fix_tls",
    "tests.fix_toxiproxy",
    "tests.fix_tenants",
    "tests.fix_mail",
]
