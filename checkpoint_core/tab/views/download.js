(file) => {
  // A file that a handler has just made is not downloaded by itself: follow its link.
  const it = Array.isArray(file) ? file[0] : file;
  if (!it || !it.url) return;
  const link = document.createElement("a");
  link.href = it.url; link.download = it.orig_name || "diagnosis.zip";
  document.body.appendChild(link); link.click(); link.remove();
}
