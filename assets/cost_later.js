// The panel is loaded when its tab is looked at.

let begun = false;

const seen = new IntersectionObserver(async (entries) => {
  if (begun || !entries.some((entry) => entry.isIntersecting)) return;
  begun = true;
  try {
    const panel = await import(new URL("tokviz/cost.js", document.baseURI).href);
    panel.default(element, props, trigger, watch);
    seen.disconnect();
  } catch (error) {
    console.error("tokviz: the panel of costs could not be loaded", error);
    begun = false;
  }
});
seen.observe(element);
