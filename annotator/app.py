"""The review UI: `hqvox review W`, or `streamlit run annotator/app.py -- W --sign-in`."""

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from annotator.server.guard import Guard

app = st.App(Path(__file__).with_name("script.py"), middleware=[Middleware(Guard)])
