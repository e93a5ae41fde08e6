(() => {
  "use strict";
  document.documentElement.classList.add("live");

  for (const part of document.querySelectorAll("article")) {
    const controls = part.querySelector(".controls");
    if (controls) animate(part, controls);
    const copy = part.querySelector(".copy");
    if (copy) copy.addEventListener("click", () => take(copy, part.querySelector("code")));
  }

  function animate(part, controls) {
    const names = JSON.parse(controls.dataset.names);
    const step = controls.querySelector("[name=step]");
    const alpha = controls.querySelector("[name=alpha]");
    const told = controls.querySelector(".told");
    const play = controls.querySelector(".play");
    let timer = 0;

    const show = () => {
      const word = controls.querySelector("[type=radio]:checked");
      const at = step ? Number(step.value) : 0;
      const shown = [];
      for (const stage of part.querySelectorAll(".stage")) {
        const heat = stage.querySelector(".heat");
        const key = `${word.value}-${stage.dataset.side}-${at}`;
        const map = word.value && part.querySelector(`[data-map="${key}"]`);
        heat.hidden = !map;
        if (map) {
          heat.src = map.src;
          heat.alt = map.alt;
          shown.push(map);
        }
      }
      part.style.setProperty("--alpha", alpha.value / 100);
      const name = word.parentElement.textContent.trim();
      told.textContent = shown.length ? `${name}: ${names[at]}` : "";
      if (step) step.setAttribute("aria-valuetext", names[at]);
    };

    const stop = () => {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    };

    const begin = () => {
      const asked = controls.querySelector(".asked [type=radio]") || controls.querySelectorAll("[type=radio]")[1];
      if (!controls.querySelector("[type=radio]:checked").value) asked.checked = true;
      if (Number(step.value) >= Number(step.max)) step.value = 0;
      timer = setInterval(() => {
        step.value = Number(step.value) + 1;
        show();
        if (Number(step.value) >= Number(step.max)) stop();
      }, 250);
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
    };

    if (play) play.addEventListener("click", () => (timer ? stop() : begin()));
    controls.addEventListener("input", show);
    controls.addEventListener("submit", (event) => event.preventDefault());
    show();
  }

  async function take(button, code) {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  }
})();
