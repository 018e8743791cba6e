"""What Streamlit runs for every session and every change; see annotator/app.py."""

from annotator.screens.navigation import main

main()
