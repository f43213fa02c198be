"""Attributes replaced, and put back in the reverse order."""

_MISSING = object()


class Patches:

    def __init__(self):
        self._undo = []

    def set(self, owner, name, value):
        """Returns what was there; None if nothing was."""
        own, before = vars(owner).get(name, _MISSING), getattr(owner, name, None)
        setattr(owner, name, value)
        self.add(lambda: delattr(owner, name) if own is _MISSING else setattr(owner, name, own))
        return before

    def set_item(self, table, key, value):
        before = table.get(key, _MISSING)
        table[key] = value
        self.add(lambda: table.pop(key, None) if before is _MISSING else table.update({key: before}))

    def add(self, undo):
        """undo() is called when it is this change's turn."""
        self._undo.append(undo)

    def undo(self):
        while self._undo:
            self._undo.pop()()
