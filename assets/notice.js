const line = element.querySelector(".tokviz-notice");
function show(notice) {
  line.className = `tokviz-notice tokviz-notice-${notice ? notice.kind : "none"}`;
  line.textContent = notice ? notice.text : "";
  line.setAttribute("role", notice && notice.kind === "error" ? "alert" : "status");
}
watch("value", () => show(props.value));
show(props.value);
