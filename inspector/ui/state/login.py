"""A login by the provider of your organization (OpenID Connect), which is off unless a setting asks for it."""

import os

import streamlit as st

LOGIN = "INSPECTOR_LOGIN"  # environment variable; "on": nobody sees a page without a login


def require_login() -> None:
    """Stop the page at a button to log in, if $INSPECTOR_LOGIN is "on" and nobody is logged in.

    The provider stands in Streamlit's secrets.toml, see docs/serving.md. Any other value but "off" is taken as "on", so
    that a slip of the pen does not open the app.
    """
    if os.environ.get(LOGIN, "off").lower() in ("off", "") or getattr(st.user, "is_logged_in", False):
        return
    st.title("Inspector", anchor=False)
    st.write("This app is for members of your team.")
    st.button("Log in", type="primary", on_click=st.login)
    st.stop()
