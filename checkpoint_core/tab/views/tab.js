() => {
  // Runs once when the page loads. The tab's HTML speaks to the server through hidden text boxes: an element with
  // data-ck-box writes its data-ck-value into the box of that id. Listeners sit on the document, because Gradio
  // replaces the HTML whenever it changes.
  if (window.fluxgymCheckpoints) return;
  window.fluxgymCheckpoints = true;
  const root = () => document.getElementById("ck-root");
  const visible = () => { const it = root(); return !!it && it.offsetParent !== null; };

  const pressable = (it) => it.closest && it.closest("#ck-root [data-ck-box]");

  let counter = 0;
  const write = (id, value) => {
    const box = document.querySelector(`#${id} textarea, #${id} input`);
    if (!box) return;
    const kind = box.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    // The counter lets the same value be sent twice. The event does not bubble: Gradio listens at the box itself, and
    // FluxGym's listener on the document must not take it for typing in the Gym tab.
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(box, `${++counter}|${value}`);
    box.dispatchEvent(new Event("input", { bubbles: false }));
  };
  const press = (event) => {
    const target = pressable(event.target);
    if (!target) return;
    event.preventDefault();
    write(target.dataset.ckBox, target.dataset.ckValue);
  };
  document.addEventListener("click", press);
  document.addEventListener("keydown", (event) => {
    const row = event.target.closest && event.target.closest("#ck-root .ck-row");
    if (!row) return;
    if (event.key === "Enter" || event.key === " ") press(event);
    const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
    if (next) { event.preventDefault(); next.focus(); }
  });
  // The table is replaced when a row is selected or sorted or a checkpoint comes (Gradio 6 puts the new values into the
  // old elements): put the keyboard's focus back on what it was on.
  const identity = (it) => {
    const head = it.closest("th");
    return `${it.dataset.ckBox} ${head ? head.className : it.dataset.ckValue}`;
  };
  let focused = null;
  document.addEventListener("focusin", (event) => {
    const it = pressable(event.target);
    focused = it ? identity(it) : null;
  });
  new MutationObserver(() => {
    const now = document.activeElement;
    if (!focused || !visible() || (now !== document.body && (!pressable(now) || identity(now) === focused))) return;
    const same = [...root().querySelectorAll("[data-ck-box]")].find((it) => identity(it) === focused);
    if (same) same.focus({ preventScroll: true });
  }).observe(document.body, { childList: true, subtree: true, attributeFilter: ["data-ck-value"] });

  // FluxGym regenerates its train script a second after any typing on the page, which would undo a change made by
  // hand in the Gym tab: typing in this tab (the run picker has a search field) ends at the page's body.
  // Not at the tab's own root: Gradio 6 listens further up, and the picker would no longer filter.
  document.body.addEventListener("input", (event) => {
    const typed = event.target.closest && event.target.closest("#ck-root");
    if (typed && document.getElementById("autoscroll")) event.stopPropagation();
  });
  // FluxGym also scrolls the page to its bottom twice a second while a training logs: not while this tab is shown.
  const scrollTo = window.scrollTo.bind(window);
  window.scrollTo = (...where) => {
    if (document.getElementById("autoscroll") && visible() && where[1] === document.body.scrollHeight) return;
    scrollTo(...where);
  };
  // The log is shown from its end (its box is laid out in reverse); who has scrolled up stays there when it is replaced.
  let scrolled = 0;
  document.addEventListener("scroll", (event) => {
    if (event.target.classList && event.target.classList.contains("ck-log")) scrolled = event.target.scrollTop;
  }, true);
  new MutationObserver(() => {
    const log = visible() && root().querySelector(".ck-log");
    if (log && scrolled && log.scrollTop !== scrolled) log.scrollTop = scrolled;
  }).observe(document.body, { childList: true, subtree: true });

  // Gradio's client counts a handler's memory (gr.State) as an argument too many, and says so at every poll.
  const warn = console.warn.bind(console);
  console.warn = (...what) => { if (what[0] !== "Too many arguments provided for the endpoint.") warn(...what); };

  const shown = (id) => { if (visible() && !document.hidden) { const it = document.getElementById(id); if (it) it.click(); } };
  window.setInterval(() => shown("ck-poll"), 10000);
  // While something trains, its progress alone is asked for more often.
  window.setInterval(() => { if (root() && root().querySelector("[data-ck-live]")) shown("ck-live"); }, 2000);
}
