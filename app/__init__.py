"""What people touch: command line, Streamlit pages, charts, words."""
