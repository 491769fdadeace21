() => {
  // The tab's content may reach the page only now (Gradio 5 and 6): wait for its refresh button, then press it.
  const press = () => {
    const it = document.getElementById("ck-poll");
    if (it) it.click(); else window.setTimeout(press, 50);
  };
  press();
}
