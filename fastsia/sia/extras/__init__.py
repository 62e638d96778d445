"""Statistics beyond the paper's method; every module here registers its tables, quantities, columns and curves."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
