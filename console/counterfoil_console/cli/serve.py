"""`counterfoil serve`: the HTTP API."""

import logging

import typer

from counterfoil_console.cli.services import new_reconciler, refuse_unready, stopping_on_signals
from counterfoil_console.http.serving import Serving
from counterfoil_console.logs import set_up_logs
from counterfoil_console.settings import load
from counterfoil_consumers.store import connect
from counterfoil_reconcilers.contracts import load as load_contracts
from counterfoil_reconcilers.worklist import Selection


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(serve)


def serve() -> None:
    """Answer agents over HTTP: may this write be sent again, and has it landed?

    Listens on COUNTERFOIL_HTTP_HOST and COUNTERFOIL_HTTP_PORT, for who has a token of `counterfoil token create`; put a
    proxy that speaks TLS before it. Needs the contracts and the targets' settings, as `counterfoil reconcile` does, and
    beside it a running `counterfoil ingest` and `counterfoil reconcile`.

    Example: counterfoil serve
    """
    settings = load()
    set_up_logs(settings.log_format, logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    contracts = load_contracts(settings.contracts)
    refuse_unready(settings, "operator")
    serving = Serving(
        settings,
        contracts,
        lambda: connect(settings.dsn, "operator", application="http"),
        lambda: new_reconciler(settings, contracts, Selection()),
    )
    with stopping_on_signals():  # uvicorn raises anew, when it has ended, what it was told by
        typer.echo(f"answers on http://{settings.http_host}:{serving.port}/v1", err=True)
        serving.run()
