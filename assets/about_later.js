// The page About is loaded when somebody asks for it, by its button or its address.

let asked = false;

async function loadAbout() {
  if (asked) return;
  asked = true;
  try {
    const about = await import(new URL("tokviz/about.js", document.baseURI).href);
    about.default(element, props, trigger, watch);
    document.dispatchEvent(new Event("tokviz:about")); // heard by what was loaded just now
  } catch (error) {
    console.error("tokviz: the page About could not be loaded", error);
    asked = false;
  }
}

document.addEventListener("tokviz:about", loadAbout);
addEventListener("hashchange", () => { if (location.hash === "#about") loadAbout(); });
if (location.hash === "#about") loadAbout();
