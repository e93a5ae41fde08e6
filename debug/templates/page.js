// Turns clicks and keys inside one of the page's HTML parts into events with the data that Python needs.
// `element` and `trigger` are given by gradio; listeners sit on the part itself, whose insides are replaced.
const place = (button) => {
  const patch = button.querySelector(".hd-patch");
  const { row, column, rows, columns } = button.dataset;
  patch.hidden = false;
  patch.style.left = `${(100 * column) / columns}%`;
  patch.style.top = `${(100 * row) / rows}%`;
  patch.style.width = `${100 / columns}%`;
  patch.style.height = `${100 / rows}%`;
};
const move = (button, down, across) => {
  const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
  const { row, column, rows, columns } = button.dataset;
  const first = row === "-1";
  button.dataset.row = first ? Math.floor(rows / 2) : within(+row + down, +rows);
  button.dataset.column = first ? Math.floor(columns / 2) : within(+column + across, +columns);
  place(button);
};
const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("word" in button.dataset) trigger("pick", { word: Number(button.dataset.word) });
  if ("number" in button.dataset) trigger("show", { number: Number(button.dataset.number) });
  if (!("rows" in button.dataset)) return;
  const { rows, columns } = button.dataset;
  if (event.detail > 0) {
    const box = button.getBoundingClientRect();
    button.dataset.row = Math.min(Math.floor(((event.clientY - box.top) / box.height) * rows), rows - 1);
    button.dataset.column = Math.min(Math.floor(((event.clientX - box.left) / box.width) * columns), columns - 1);
    place(button);
  }
  if (button.dataset.row === "-1") return;
  trigger("query", { row: Number(button.dataset.row), column: Number(button.dataset.column) });
});
element.addEventListener("keydown", (event) => {
  const button = event.target.closest("button[data-rows]");
  if (!button || !(event.key in arrows)) return;
  event.preventDefault();
  move(button, ...arrows[event.key]);
});
