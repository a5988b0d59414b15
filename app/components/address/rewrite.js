/** Change the page's address in place: no step of the browser's history. */
function rewrite(change) {
  const url = new URL(window.location.href);
  change(url.searchParams);
  if (url.href !== window.location.href) window.history.replaceState(window.history.state, "", url);
}
