// Runs before Streamlit on every page.

// Where the server is. Left to itself Streamlit looks below the page's own path first (/runs/_stcore/health), and each
// such look is an error on the console.
window.__streamlit = { BACKEND_BASE_URL: window.location.origin + "{{base}}/" };

// A table or a code block that scrolls is a stop of the Tab key, in every browser: Streamlit's scroll in boxes that no
// key reaches.
new MutationObserver(() => {
  for (const box of document.querySelectorAll(":is(.dvn-scroller, .stCode pre):not([tabindex])")) box.tabIndex = 0;
}).observe(document, { childList: true, subtree: true });
