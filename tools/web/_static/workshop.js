// Tables scroll sideways where they are wider than the page: with the keyboard, too.
addEventListener("DOMContentLoaded", () => document.querySelectorAll(".bd-article table").forEach((t) => { t.tabIndex = 0; }));
