'use strict';
(() => {
  const byId = (id) => document.getElementById(id);
  const all = JSON.parse(byId('maps').textContent).map((maps) => ({
    ...maps, bytes: Uint8Array.from(atob(maps.data), (c) => c.charCodeAt(0)),
  }));
  const rows = [...new Set(all.map((maps) => maps.row))];
  const state = {row: 0, kind: 0, layer: 0, head: 0, cell: null};
  const canvas = byId('map');
  let geometry = null;

  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const ofRow = () => all.filter((maps) => maps.row === rows[state.row]);
  const chosen = () => ofRow()[state.kind];
  const token = (tokens, i) => i < tokens.length ? tokens[i] : `#${i}`;

  function root(maps, layer, head, t, s) {
    const [, N, T, S] = maps.shape;
    const byte = maps.bytes[((layer * N + head) * T + t) * S + s];
    return (byte - maps.zero) / maps.span;
  }

  function paint(canvas, maps, layer, head) {
    const [, , T, S] = maps.shape;
    canvas.width = S;
    canvas.height = T;
    const context = canvas.getContext('2d');
    const image = context.createImageData(S, T);
    const positive = colour('--map').split(',').map(Number);
    const negative = colour('--negative').split(',').map(Number);
    for (let t = 0; t < T; t++) {
      for (let s = 0; s < S; s++) {
        const value = root(maps, layer, head, t, s);
        const [r, g, b] = value < 0 ? negative : positive;
        const opacity = Math.round(255 * Math.min(1, Math.abs(value)));
        image.data.set([r, g, b, opacity], 4 * (t * S + s));
      }
    }
    context.putImageData(image, 0, 0);
  }

  function options(select, labels, chosen) {
    select.replaceChildren(...labels.map((label, i) =>
      new Option(label, i, i === chosen, i === chosen)));
  }

  function element(name, text) {
    const node = document.createElement(name);
    node.textContent = text;
    return node;
  }

  function drawThumbs(maps) {
    const [L, N, T, S] = maps.shape;
    const header = document.createElement('tr');
    header.append(element('td', ''));
    for (let n = 0; n < N; n++) header.append(element('th', `head ${n}`));
    const rows = [header];
    for (let l = 0; l < L; l++) {
      const line = document.createElement('tr');
      const name = element('th', `layer ${l}`);
      name.scope = 'row';
      line.append(name);
      for (let n = 0; n < N; n++) {
        const small = document.createElement('canvas');
        paint(small, maps, l, n);
        small.style.width = `${76 * S / Math.max(T, S)}px`;
        small.style.height = `${76 * T / Math.max(T, S)}px`;
        small.title = `layer ${l}, head ${n}`;
        if (l === state.layer && n === state.head) small.className = 'chosen';
        small.onclick = () => {
          Object.assign(state, {layer: l, head: n});
          draw();
        };
        const cell = document.createElement('td');
        cell.append(small);
        line.append(cell);
      }
      rows.push(line);
    }
    byId('thumbs').replaceChildren(...rows);
  }

  function drawLabels(context, maps, size, margin) {
    const [, , T, S] = maps.shape;
    const font = Math.max(8, Math.min(12, size));
    // Labels closer than their height would run into each other.
    const every = Math.ceil(font / size - .2);
    const style = getComputedStyle(document.body).fontFamily;
    const label = (tokens, i, on) => {
      context.font = `${on ? 'bold ' : ''}${font}px ${style}`;
      context.fillStyle = colour(on ? '--ink' : '--soft');
      return token(tokens, i);
    };
    const shown = (i, chosen) => chosen === null ? i % every === 0 :
      i === chosen || (i % every === 0 && Math.abs(i - chosen) >= every);
    const [chosenT, chosenS] = state.cell ?? [null, null];
    context.textBaseline = 'middle';
    for (let t = 0; t < T; t++) {
      if (!shown(t, chosenT)) continue;
      context.textAlign = 'right';
      context.fillText(
        label(maps.queries, t, t === chosenT), margin - 5, margin + (t + .5) * size,
        margin - 6);
    }
    const upright = maps.keys.every((text) => [...text].length < 2);
    for (let s = 0; s < S; s++) {
      if (!shown(s, chosenS)) continue;
      context.save();
      context.translate(margin + (s + .5) * size, margin - 5);
      if (!upright) context.rotate(-Math.PI / 2);
      context.textAlign = upright ? 'center' : 'left';
      context.fillText(
        label(maps.keys, s, s === chosenS), 0, upright ? -font / 2 : 0, margin - 6);
      context.restore();
    }
  }

  function drawLarge(maps) {
    const [, , T, S] = maps.shape;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.min(byId('large').clientWidth, 640);
    const longest = Math.max(
      1, ...[...maps.queries, ...maps.keys].map((text) => [...text].length));
    const margin = Math.min(90, 14 + 7 * longest);
    const size = Math.min((width - margin - 2) / Math.max(T, S), 40);
    const height = margin + size * T + 2;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
    const context = canvas.getContext('2d');
    context.scale(ratio, ratio);
    const cells = document.createElement('canvas');
    paint(cells, maps, state.layer, state.head);
    context.imageSmoothingEnabled = false;
    context.drawImage(cells, margin, margin, size * S, size * T);
    context.strokeStyle = colour('--rule');
    context.strokeRect(margin, margin, size * S, size * T);
    if (state.cell) {
      const [t, s] = state.cell;
      context.strokeStyle = colour('--ink');
      context.strokeRect(margin + s * size, margin + t * size, size, size);
    }
    drawLabels(context, maps, size, margin);
    geometry = {margin, size, T, S};
  }

  function drawKey(maps) {
    const bar = document.createElement('i');
    const side = (name, way) =>
      `linear-gradient(to ${way}, transparent, rgb(${colour(name)}))`;
    const signed = maps.zero > 0;
    bar.style.background = signed ?
      `${side('--map', 'right')} right / 50% 100% no-repeat, ` +
      `${side('--negative', 'left')} left / 50% 100% no-repeat` :
      side('--map', 'right');
    const marks = signed ? [-1, -.25, 0, .25, 1] : [0, .05, .25, .5, 1];
    byId('key').replaceChildren(bar, ...marks.map((mark) => {
      const place = Math.sign(mark) * Math.sqrt(Math.abs(mark));
      const label = element('span', String(+(mark * maps.scale).toPrecision(2)));
      label.style.left = `${100 * (signed ? (1 + place) / 2 : place)}%`;
      return label;
    }));
  }

  function tell(maps) {
    if (!state.cell) {
      byId('readout').textContent = 'Point at a cell to read its weight.';
      return;
    }
    const [t, s] = state.cell;
    const value = root(maps, state.layer, state.head, t, s);
    const weight = maps.scale * Math.sign(value) * value * value;
    const digits = Math.abs(weight) < .1 ? 3 : 2;
    byId('readout').textContent =
      `query ${token(maps.queries, t)} (${t}) → ` +
      `key ${token(maps.keys, s)} (${s}): ` +
      `weight ${weight.toFixed(digits)}`;
  }

  function draw() {
    const kinds = ofRow().map((maps) => maps.kind);
    state.kind = Math.min(state.kind, kinds.length - 1);
    const maps = chosen();
    const [L, N] = maps.shape;
    state.layer = Math.min(state.layer, L - 1);
    state.head = Math.min(state.head, N - 1);
    options(byId('row'), rows, state.row);
    options(byId('kind'), kinds, state.kind);
    options(byId('layer'), [...Array(L).keys()], state.layer);
    options(byId('head'), [...Array(N).keys()], state.head);
    byId('note').textContent = maps.note;
    drawThumbs(maps);
    drawLarge(maps);
    drawKey(maps);
    tell(maps);
  }

  for (const name of ['row', 'kind', 'layer', 'head']) {
    byId(name).onchange = (event) => {
      const kind = chosen().kind;
      state[name] = Number(event.target.value);
      state.cell = null;
      // Another row shows the same kind of attention, if it has that.
      const same = ofRow().findIndex((maps) => maps.kind === kind);
      if (name === 'row') state.kind = Math.max(0, same);
      draw();
    };
  }
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const {margin, size, T, S} = geometry;
    const t = Math.floor((event.clientY - box.top - margin) / size);
    const s = Math.floor((event.clientX - box.left - margin) / size);
    state.cell = t >= 0 && t < T && s >= 0 && s < S ? [t, s] : null;
    drawLarge(chosen());
    tell(chosen());
  };
  canvas.onpointermove = point;
  canvas.onpointerdown = point;
  window.onresize = () => drawLarge(chosen());
  matchMedia('(prefers-color-scheme: dark)').onchange = draw;
  byId('plain').hidden = true;
  byId('explorer').hidden = false;
  draw();
})();
