// Summaries of search results are fetched from their pages, which browsers refuse for files that are opened from a disk.
if (location.protocol === 'file:' && typeof DOCUMENTATION_OPTIONS !== 'undefined') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
// What scrolls sideways can be scrolled with the keyboard as well.
addEventListener('DOMContentLoaded', () => {
  const scrolls = () => document.querySelectorAll('article pre, article .table-wrapper, article .output.text_html, article mjx-container, article div.math').forEach(e => {
    if (e.scrollWidth > e.clientWidth + 1) e.tabIndex = 0; else if (!e.hasAttribute('data-kept')) e.removeAttribute('tabindex');
  });
  scrolls();
  addEventListener('load', scrolls);
  addEventListener('resize', scrolls);
});
