// Recording a voice message: a timer, a button that ends it, and one that gives it up.

import { el, iconButton } from './dom.js';
import { strings } from './strings.js';
import { durationText } from './text.js';

/** Recordings end by themselves after this. */
const LONGEST_MS = 5 * 60 * 1000;
const TYPES = ['audio/webm;codecs=opus', 'audio/ogg;codecs=opus', 'audio/mp4'];

/** Whether this browser can record. */
export function canRecord() {
  return typeof MediaRecorder === 'function' && Boolean(navigator.mediaDevices?.getUserMedia);
}

/**
 * Records until the user ends it. Resolves with `{file, durationMs}`, or null: they gave it up. Fails if there is no microphone.
 * @param {HTMLElement} place where timer and buttons are put
 */
export async function record(place) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
  const recorder = new MediaRecorder(stream, mimeType ? { mimeType } : {});
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const startedMs = performance.now();
  const passed = () => performance.now() - startedMs;
  const timer = el('span', { class: 'timer', textContent: durationText(0), aria: { hidden: true } });
  const dot = el('span', { class: 'recording', role: 'status', textContent: strings.media.recording });
  return new Promise((resolve) => {
    let isGivenUp = false;
    const end = () => recorder.state !== 'inactive' && recorder.stop();
    const cancel = () => {
      isGivenUp = true;
      end();
    };
    const buttons = [iconButton('close', strings.media.cancel, cancel), iconButton('send', strings.media.stop, end, 'primary')];
    const bar = el('div', { class: 'recorder' }, buttons[0], dot, timer, buttons[1]);
    bar.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape') return;
      event.stopPropagation();
      cancel();
    });
    const tick = setInterval(() => {
      timer.textContent = durationText(passed());
      if (passed() > LONGEST_MS) end();
    }, 250);
    let durationMs = 0;
    recorder.onstop = () => {
      clearInterval(tick);
      stream.getTracks().forEach((track) => track.stop());
      bar.remove();
      // The type of a file has no parameters.
      const type = recorder.mimeType.split(';')[0];
      resolve(isGivenUp ? null : { file: new Blob(parts, { type }), durationMs });
    };
    recorder.addEventListener('dataavailable', () => {
      durationMs = Math.round(passed());
    });
    recorder.start();
    place.append(bar);
    bar.lastElementChild.focus();
  });
}
