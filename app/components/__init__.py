"""Canvases in the page: Streamlit components made of the plain script files in the folders beside this one."""
