"""The review UI as Streamlit runs it: `hqvox review W`, `streamlit run annotator/app.py -- W`."""

from annotator.screens.navigation import main

main()
