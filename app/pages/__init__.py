"""The lab's pages. Streamlit runs these files by their path; they only ask for a run or an experiment and hand over to
views.
"""
