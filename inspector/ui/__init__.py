"""The Streamlit app. It holds no formula."""
