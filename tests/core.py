"""The mark of tests that need the C++ core: without a compiler they are skipped."""

import pytest

from fastsia.core import extension

needs_core = pytest.mark.skipif(extension() is None, reason="the C++ core is not built")
