"""What a person is told of an error: loaded when there is one, for the clients that it asks take long to load."""

import confluent_kafka
import psycopg

from counterfoil.errors import CounterfoilError
from counterfoil_console.away import explained
from counterfoil_console.doctor import kafka_sentence
from counterfoil_console.settings import load
from counterfoil_consumers.errors import BrokersAway

_NO_SUCH_OBJECT = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidSchemaName,
)


def sentence_of(error: Exception) -> str | None:
    """The sentence of an error that a person can mend, or None."""
    match error:
        case BrokersAway():
            return explained(error, load().kafka)
        case CounterfoilError():
            return str(error)
        case psycopg.Error():
            return _store_sentence(error)
        case confluent_kafka.KafkaException():
            return kafka_sentence(error)
        case _:
            return None


def _store_sentence(error: psycopg.Error) -> str:
    first = str(error).strip().split("\n")[0]
    if isinstance(error, _NO_SUCH_OBJECT):
        return f"the store is not of this version ({first}); run `counterfoil migrate`"
    if isinstance(error, psycopg.OperationalError):
        return f"the store went away: {first}; check COUNTERFOIL_STORE__DSN and try again"
    return f"the store refuses: {first}; run `counterfoil doctor`"
