// Media in messages: pictures, recordings, files. What is not here is fetched when it is about to be seen.

import { button, el } from './dom.js';
import { icon } from './icons.js';
import * as media from './media.js';
import { strings } from './strings.js';
import { bytesText, durationText } from './text.js';

const addresses = new WeakMap();

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    target.dispatchEvent(new Event('seen'));
  }
});

/**
 * The element of a medium.
 * @param {object} found the medium of a message
 * @param {string} conversation
 * @param {number} seq 0 = it is not sent yet
 */
export function mediumView(found, conversation, seq) {
  if (!media.isAvailable || seq === 0) return placeholder(found);
  const make = { IMAGE: imageView, VOICE: voiceView }[found.kind] ?? fileView;
  return make(found, () => media.url(conversation, seq));
}

/** Gives back what the media in an element took. */
export function releaseMedia(element) {
  for (const holder of element.querySelectorAll('[data-medium]')) {
    seen.unobserve(holder);
    const address = addresses.get(holder);
    if (address) URL.revokeObjectURL(address);
    addresses.delete(holder);
  }
}

function placeholder(found) {
  const title = found.name || strings.media[found.kind] || strings.media.FILE;
  const size = found.kind === 'VOICE' && found.durationMs ? durationText(found.durationMs) : bytesText(found.bytes);
  const more = media.isAvailable ? size : `${size} · ${strings.media.notAvailable}`;
  return el(
    'div',
    { class: 'file' },
    icon('file'),
    el('div', {}, el('bdi', { class: 'file-name', textContent: title }), el('span', { class: 'hint', textContent: more })),
  );
}

/** Fetches the address, once, and keeps it as long as the element is there. */
async function addressFor(holder, fetch) {
  const address = addresses.get(holder) ?? (await fetch());
  addresses.set(holder, address);
  return address;
}

function imageView(found, fetch) {
  const image = el('img', {
    class: 'photo',
    alt: found.name || strings.media.IMAGE,
    width: found.width || 320,
    height: found.height || 240,
    data: { medium: '' },
  });
  image.addEventListener('seen', async () => {
    try {
      image.src = await addressFor(image, fetch);
    } catch {
      image.replaceWith(placeholder(found));
    }
  });
  seen.observe(image);
  return image;
}

function voiceView(found, fetch) {
  const audio = el('audio', {
    class: 'voice',
    controls: true,
    preload: 'none',
    data: { medium: '' },
    aria: { label: `${strings.media.VOICE}, ${durationText(found.durationMs)}` },
  });
  audio.addEventListener('seen', async () => {
    try {
      audio.src = await addressFor(audio, fetch);
    } catch {
      audio.replaceWith(placeholder(found));
    }
  });
  seen.observe(audio);
  return audio;
}

function fileView(found, fetch) {
  const title = found.name || strings.media.unnamed;
  const holder = el('div', { data: { medium: '' } }, placeholder(found));
  const download = async () => {
    try {
      const link = el('a', { href: await addressFor(holder, fetch), download: title });
      link.click();
    } catch {
      get.disabled = true;
    }
  };
  const get = button(strings.media.download(title), download, 'small');
  holder.append(get);
  return holder;
}
