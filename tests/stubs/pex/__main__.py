"""`python -m pex`: writes its arguments to $STUB_PEX_RECORD, and the files that it was asked for; or fails as told.

With $STUB_PEX_FAILS it says that, and ends with 1; $STUB_PEX_SIZE is how many bytes it makes at least.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if "STUB_PEX_FAILS" in os.environ:
    sys.exit(os.environ["STUB_PEX_FAILS"])
arguments = sys.argv[1:]
Path(os.environ["STUB_PEX_RECORD"]).write_text(json.dumps(arguments))
output = Path(arguments[arguments.index("-o") + 1])
output.write_text("a pex".ljust(int(os.environ.get("STUB_PEX_SIZE", "0"))))
if "--scie" in arguments:
    output.with_suffix("").write_text("an executable")
    output.with_suffix("").chmod(0o755)
