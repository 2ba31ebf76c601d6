// A part of the page whose scripts are loaded when it is looked at; props.module names them.

let begun = false;

const seen = new IntersectionObserver(async (entries) => {
  if (begun || !entries.some((entry) => entry.isIntersecting)) return;
  begun = true;
  try {
    const part = await import(new URL(`tokviz/${props.module}.js`, document.baseURI).href);
    part.default(element, props, trigger, watch);
    seen.disconnect();
  } catch (error) {
    console.error("tokviz: a part of the page could not be loaded", error);
    begun = false;
  }
});
seen.observe(element);
