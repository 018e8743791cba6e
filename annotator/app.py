"""The review UI as Streamlit runs it: `hqvox review W`, `streamlit run annotator/app.py -- W`."""

import sys
from pathlib import Path

# Streamlit puts this folder first on the path, where queue.py stands before the standard
# library's; what is imported here is the package, by its name.
_HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _HERE]
if str(_HERE.parent) not in sys.path:
    sys.path.append(str(_HERE.parent))

from annotator.navigation import main  # noqa: E402

main()
