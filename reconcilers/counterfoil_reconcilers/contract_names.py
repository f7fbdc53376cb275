"""Which expressions a tool's contract consists of, where each stands, and which arguments it reads."""

from collections.abc import Iterator

from counterfoil_reconcilers.contract_model import Tool, Write
from counterfoil_reconcilers.expressions import Expression
from counterfoil_reconcilers.toml_lines import Location


def arguments_read(tool: Tool) -> Iterator[tuple[str, Location, Expression]]:
    """Each argument's name, once for each expression of the contract that reads it, with the place of that."""
    for location, expression in expressions_of(tool):
        names = {read[1] for read in expression.reads if read[0] == "args" and len(read) > 1}
        for name in sorted(names):
            yield name, location, expression


def expressions_of(tool: Tool) -> Iterator[tuple[Location, Expression]]:
    """Every expression of a tool's contract, in its order."""
    at: Location = ("tools", tool.name)
    for name, expression in tool.let:
        yield (*at, "let", name), expression
    for write in tool.writes:
        yield from _of_write(write, (*at, "writes", write.index))


def _of_write(write: Write, at: Location) -> Iterator[tuple[Location, Expression]]:
    for name, one in (("each", write.each), ("when", write.when), ("reply", write.reply)):
        if one is not None:
            yield (*at, name), one
    for table, named in (("let", write.let), ("key", write.key), ("find", write.find)):
        for name, expression in named:
            yield (*at, table, name), expression
    for change in write.changes:
        steps = (change.text,) if "[" in change.text else tuple(change.text.split("."))
        place = (*at, "remove") if change.kind == "remove" else (*at, change.kind, *steps)
        for step in change.path:
            if isinstance(step, Expression):
                yield place, step
        if change.value is not None:
            yield place, change.value
