"""Attributes replaced, and put back in the reverse order."""

_MISSING = object()


class Patches:

    def __init__(self):
        self._undo = []

    def set(self, owner, name, value):
        """Returns what was there; None if nothing was."""
        own = vars(owner).get(name, _MISSING)
        before = getattr(owner, name, None)
        setattr(owner, name, value)
        self._undo.append((owner, name, own))
        return before

    def set_item(self, table, key, value):
        self._undo.append((table, key, table.get(key, _MISSING), "item"))
        table[key] = value

    def undo(self):
        while self._undo:
            owner, name, before, *item = self._undo.pop()
            if item and before is _MISSING:
                owner.pop(name, None)
            elif item:
                owner[name] = before
            elif before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
