"""Parts of pages: each draws one thing with Streamlit, from facts that other modules supply."""
