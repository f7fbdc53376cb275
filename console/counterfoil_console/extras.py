"""What is said where an extra is missing."""


def sentence_without(error: ModuleNotFoundError) -> str:
    """One sentence that names the command's extra.

    Raises the error itself where the module is one of ours.
    """
    if (error.name or "counterfoil").startswith("counterfoil"):
        raise error
    return f"counterfoil: the command needs the extra `console`: pip install 'counterfoil[console]' ({error})"
