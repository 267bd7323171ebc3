// Which streams and processors hang together: the graph of all flows, as the lists of the REST API tell it.

const PORTS = ["late", "errors"];

const idOf = (processor) => `processor ${processor.flow}|${processor.processor_name}`;

/** Nodes and edges of all processors and the streams that they read and write: `{nodes: Map(id, node), edges}`. */
export function modelOf(processors, streams) {
  const names = new Map(streams.map((stream) => [stream.stream_id, stream.name]));
  const nodes = new Map();
  const edges = [];
  const inFlow = new Map(processors.map((each) => [idOf(each), each]));
  const stream = (reference) => {
    const name = names.get(reference) ?? reference;
    const id = `stream ${name}`;
    if (!nodes.has(id)) nodes.set(id, { id, kind: "stream", name });
    return id;
  };
  const source = (processor, reference) => {
    const direct = idOf({ flow: processor.flow, processor_name: reference });
    if (inFlow.has(direct)) return [direct, "events"];
    const dot = reference.lastIndexOf(".");
    const behind = idOf({ flow: processor.flow, processor_name: reference.slice(0, dot) });
    const port = reference.slice(dot + 1);
    if (dot > 0 && PORTS.includes(port) && inFlow.has(behind)) return [behind, port];
    return [stream(reference), "events"];
  };
  for (const processor of processors) {
    nodes.set(idOf(processor), { id: idOf(processor), kind: "processor", name: processor.processor_name, processor });
  }
  for (const processor of processors) {
    const read = [processor.source_stream_id, processor.processing_logic?.join_stream_id].filter(Boolean);
    for (const reference of read) {
      const [from, port] = source(processor, reference);
      edges.push({ from, to: idOf(processor), port, shared: read.length > 1 });
    }
    if (processor.target_stream_id) edges.push({ from: idOf(processor), to: stream(processor.target_stream_id), port: "events" });
  }
  return { nodes, edges };
}

/** The parts of a graph that hang together, the largest first. */
export function parts({ nodes, edges }) {
  const leader = new Map([...nodes.keys()].map((id) => [id, id]));
  const find = (id) => {
    let at = id;
    while (leader.get(at) !== at) at = leader.get(at);
    return at;
  };
  for (const { from, to } of edges) leader.set(find(from), find(to));
  const found = new Map();
  for (const node of nodes.values()) {
    const id = find(node.id);
    if (!found.has(id)) found.set(id, { nodes: new Map(), edges: [] });
    found.get(id).nodes.set(node.id, node);
  }
  for (const edge of edges) found.get(find(edge.from)).edges.push(edge);
  return [...found.values()].sort((one, other) => other.nodes.size - one.nodes.size);
}

/** What leads to a processor, and what comes of it: the part of a graph that tells of it alone. */
export function around({ nodes, edges }, processorId) {
  const start = [...nodes.values()].find((node) => node.processor?.processor_id === processorId);
  const reached = (from, to) => {
    const found = new Set([start.id]);
    for (const id of found) for (const edge of edges) if (edge[from] === id) found.add(edge[to]);
    return found;
  };
  const [before, after] = [reached("to", "from"), reached("from", "to")];
  return {
    nodes: new Map([...nodes].filter(([id]) => before.has(id) || after.has(id))),
    edges: edges.filter((edge) => [before, after].some((side) => side.has(edge.from) && side.has(edge.to))),
  };
}

/** What a part is called: by the flows in it, or by its processors. */
export function title(part) {
  const processors = [...part.nodes.values()].filter((node) => node.kind === "processor").map((node) => node.processor);
  const names = [...new Set(processors.map((each) => (each.flow === each.processor_id ? each.processor_name : each.flow)))];
  return names.length > 3 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");
}
