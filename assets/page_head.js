const root = document.documentElement;
function showChips() {
  for (const [name, text] of [["model", root.dataset.tokvizModel], ["setting", root.dataset.tokvizSetting]]) {
    const chip = element.querySelector(`[data-chip="${name}"]`);
    chip.textContent = text || "";
    chip.hidden = !text;
  }
}
new MutationObserver(showChips).observe(root, { attributes: true, attributeFilter: ["data-tokviz-model", "data-tokviz-setting"] });
showChips();
element.querySelector(".tokviz-theme").addEventListener("click", () => document.body.classList.toggle("dark"));
