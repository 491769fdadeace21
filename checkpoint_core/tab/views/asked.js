() => {
  // The question stands below the panel, the button that asked it in the list above: bring it into view.
  const it = document.getElementById("ck-result");
  if (it) it.scrollIntoView({ block: "center" });
}
