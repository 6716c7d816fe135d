// What a shop's script does after load: it sorts the "recently viewed" box and makes the basket buttons count.
"use strict";

window.addEventListener("load", () => {
  // Later than `load`, so that whoever reads the page too early sees the order of the server.
  setTimeout(sortRecentlyViewed, 20);
  let basket = 0;
  for (const button of document.querySelectorAll("button[data-product]")) {
    button.addEventListener("click", (event) => {
      event.preventDefault();
      basket += 1;
      document.querySelector("#basket").textContent = `${basket} in basket`;
    });
  }
});

function sortRecentlyViewed() {
  const box = document.querySelector("#recently_viewed");
  if (!box) return;
  const title = (entry) => entry.querySelector("h3 a").title;
  const entries = [...box.children].sort((a, b) => title(a).localeCompare(title(b), "en"));
  box.append(...entries);
  box.dataset.sorted = "true";
}
