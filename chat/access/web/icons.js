// Pictures for buttons: strokes on a square of 24 by 24.

const PATHS = {
  alert: ['M12 8v5', 'M12 16.5v.01', 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z'],
  attach: ['M20 11.5l-8 8a5 5 0 0 1-7-7l8.5-8.5a3.3 3.3 0 0 1 4.7 4.7L9.8 17a1.7 1.7 0 0 1-2.4-2.4l7.6-7.6'],
  back: ['M15 5l-7 7 7 7'],
  check: ['M5 12.5l4.5 4.5L19 7.5'],
  checks: ['M2.5 12.5L7 17l9-9.5', 'M11.5 16l1 1 9-9.5'],
  clock: ['M12 7v5l3 2', 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z'],
  close: ['M6 6l12 12', 'M18 6L6 18'],
  down: ['M6 9l6 6 6-6'],
  download: ['M12 4v11', 'M7 11l5 5 5-5', 'M5 20h14'],
  file: ['M7 3h7l5 5v13H7z', 'M14 3v5h5'],
  info: ['M12 11v6', 'M12 7.5v.01', 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z'],
  microphone: ['M12 4a2.5 2.5 0 0 0-2.5 2.5v5a2.5 2.5 0 0 0 5 0v-5A2.5 2.5 0 0 0 12 4z', 'M6 11.5a6 6 0 0 0 12 0', 'M12 17.5V21'],
  more: ['M6 12v.01', 'M12 12v.01', 'M18 12v.01'],
  muted: ['M4 10v4h3l5 4V6L7 10z', 'M16 10l5 5', 'M21 10l-5 5'],
  pin: ['M9 4h6l-1 6 3 3v1H7v-1l3-3z', 'M12 14v6'],
  plus: ['M12 5v14', 'M5 12h14'],
  search: ['M10.5 4.5a6 6 0 1 0 0 12 6 6 0 0 0 0-12z', 'M15 15l5 5'],
  send: ['M4 12L20 4l-4.5 16-4-6.5z', 'M11.5 13.5L20 4'],
  star: ['M12 4l2.4 5.2 5.6.6-4.2 3.8 1.2 5.6-5-2.9-5 2.9 1.2-5.6L4 9.8l5.6-.6z'],
};
const SVG = 'http://www.w3.org/2000/svg';

/**
 * A picture. It says nothing to who does not see it: its button has a label.
 * @param {keyof PATHS} picture
 */
export function icon(picture) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', `icon icon-${picture}`);
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('focusable', 'false');
  for (const line of PATHS[picture]) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('d', line);
    svg.append(path);
  }
  return svg;
}
