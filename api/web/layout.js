// Where the boxes of a graph go: in layers from left to right, with few crossings and short edges (Sugiyama's method).

const GUTTER = 104;
const GAP = 20;
const LANE = 10;
const SWEEPS = 8;

/**
 * Place boxes. `sizes` is a Map from ids to `{width, height}`, `edges` are `{from, to}`. Circles are allowed: the edges that
 * close them are laid out backwards. Returns `{boxes: Map(id, {x, y, width, height}), routes: [[{x, y}, ...]], width, height}`, a
 * route for each edge, from the right of its source to the left of its target.
 */
export function layOut(sizes, edges) {
  const layers = layersOf([...sizes.keys()], edges);
  const cells = new Map([...sizes].map(([id, size]) => [id, { id, ...size, layer: layers.get(id), before: [], after: [] }]));
  const chains = edges.map((edge, i) => chain(cells, edge, i));
  const columns = [];
  for (const cell of cells.values()) (columns[cell.layer] ??= []).push(cell);
  for (const column of columns)
    column.forEach((cell, i) => {
      cell.order = i;
    });
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const side = sweep % 2 === 0 ? "before" : "after";
    for (const column of sweep % 2 === 0 ? columns : [...columns].reverse()) {
      const wish = new Map(
        column.map((cell) => [
          cell,
          mean(
            cell[side].map((each) => each.order),
            cell.order,
          ),
        ]),
      );
      column.sort((one, other) => wish.get(one) - wish.get(other));
      column.forEach((cell, i) => {
        cell.order = i;
      });
    }
  }
  place(columns);
  let x = 0;
  for (const column of columns) {
    const width = Math.max(...column.map((cell) => cell.width));
    for (const cell of column) {
      cell.x = x;
      cell.column = width;
    }
    x += width + GUTTER;
  }
  const all = [...cells.values()];
  const top = Math.min(...all.map((cell) => cell.y));
  for (const cell of all) cell.y -= top;
  return {
    boxes: new Map([...sizes.keys()].map((id) => [id, cells.get(id)])),
    routes: chains.map(route),
    width: x - GUTTER,
    height: Math.max(...all.map((cell) => cell.y + cell.height)),
  };
}

/** The longest path to each from a start. An edge that would close a circle does not count. */
function layersOf(ids, edges) {
  const after = new Map(ids.map((id) => [id, []]));
  for (const edge of edges) after.get(edge.from).push(edge);
  const state = new Map();
  const order = [];
  const visit = (id) => {
    state.set(id, "open");
    for (const edge of after.get(id)) {
      edge.back = state.get(edge.to) === "open";
      if (!state.has(edge.to)) visit(edge.to);
    }
    state.set(id, "done");
    order.unshift(id);
  };
  for (const id of ids) if (!edges.some((edge) => edge.to === id) && !state.has(id)) visit(id);
  for (const id of ids) if (!state.has(id)) visit(id);
  const layers = new Map(ids.map((id) => [id, 0]));
  for (const id of order) {
    for (const edge of after.get(id)) if (!edge.back) layers.set(edge.to, Math.max(layers.get(edge.to), layers.get(id) + 1));
  }
  for (const id of ids) {
    const next = after
      .get(id)
      .filter((edge) => !edge.back)
      .map((edge) => layers.get(edge.to));
    if (next.length > 0 && !edges.some((edge) => edge.to === id)) layers.set(id, Math.min(...next) - 1);
  }
  return layers;
}

/** The cells that an edge goes through: its ends, and a lane in each layer between. */
function chain(cells, edge, number) {
  const [from, to] = edge.back ? [cells.get(edge.to), cells.get(edge.from)] : [cells.get(edge.from), cells.get(edge.to)];
  const found = [from];
  for (let layer = from.layer + 1; layer < to.layer; layer += 1) {
    const lane = { id: `lane ${number} ${layer}`, width: 0, height: LANE, layer, before: [], after: [] };
    cells.set(lane.id, lane);
    found.push(lane);
  }
  found.push(to);
  if (from !== to) {
    for (let i = 1; i < found.length; i += 1) {
      found[i - 1].after.push(found[i]);
      found[i].before.push(found[i - 1]);
    }
  }
  return { cells: found, back: edge.back };
}

const mean = (values, otherwise) => (values.length > 0 ? values.reduce((sum, each) => sum + each, 0) / values.length : otherwise);
const middle = (cell) => cell.y + cell.height / 2;

/** Heights, as near to those of the neighbours as the order allows. */
function place(columns) {
  for (const column of columns) {
    let y = 0;
    for (const cell of column) {
      cell.y = y;
      y += cell.height + GAP;
    }
  }
  for (let round = 0; round < 10; round += 1) {
    const side = round % 2 === 0 ? "before" : "after";
    for (const column of round % 2 === 0 ? columns : [...columns].reverse()) {
      const wish = column.map((cell) => mean(cell[side].map(middle), middle(cell)) - cell.height / 2);
      settle(column, wish);
    }
  }
}

/** Give each cell of a column the height that it wishes, and push apart what would overlap, evenly to both sides. */
function settle(column, wish) {
  const blocks = [];
  column.forEach((cell, i) => {
    let block = { cells: [cell], offsets: [0], size: cell.height, sum: wish[i], at: wish[i] };
    while (blocks.length > 0 && blocks.at(-1).at + blocks.at(-1).size + GAP > block.at) {
      const upper = blocks.pop();
      const shift = upper.size + GAP;
      block = {
        cells: [...upper.cells, ...block.cells],
        offsets: [...upper.offsets, ...block.offsets.map((each) => each + shift)],
        size: shift + block.size,
        sum: upper.sum + block.sum - shift * block.cells.length,
      };
      block.at = block.sum / block.cells.length;
    }
    blocks.push(block);
  });
  for (const block of blocks)
    block.cells.forEach((cell, i) => {
      cell.y = block.at + block.offsets[i];
    });
}

function route({ cells, back }) {
  const points = cells.flatMap((cell, i) => {
    const y = middle(cell);
    if (i === 0)
      return [
        { x: cell.x + cell.width, y },
        { x: cell.x + cell.column, y },
      ];
    if (i === cells.length - 1) return [{ x: cell.x, y }];
    return [
      { x: cell.x, y },
      { x: cell.x + cell.column, y },
    ];
  });
  return back ? points.reverse() : points;
}
