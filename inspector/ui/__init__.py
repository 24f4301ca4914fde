"""The Streamlit app: pages, components and state. All formulas are in the other packages."""
