// Make the network's input of a photo, exactly as inspector/images/preprocessing.py does: resize, crop, normalize.

import { resizeAsPillow } from "./resample.js";

export const MAX_PIXELS = 80_000_000;

/** Round as Python does: halfway between two integers, to the even one. */
export function roundHalfEven(value) {
  const low = Math.floor(value), rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

/** Return the [height, width] to which a photo is resized before it is cropped. */
export function findResized([height, width], { size, resize }) {
  if (resize === null) return size;
  const [coverHeight, coverWidth] = resize;
  if (coverHeight * width >= coverWidth * height) return [coverHeight, Math.trunc(coverHeight * width / height)];
  return [Math.trunc(coverWidth * height / width), coverWidth];
}

/**
 * Resize and crop a photo to the network's input size.
 *
 * @param photo { pixels: RGBA, size: [height, width], name }
 * @param preprocessing { size, resize, interpolation, mean, std } as in network.json
 * @returns { pixels: RGBA of the input, crop: { photo_size, box: [left, top, right, bottom], input_size } }
 */
export function makeView(photo, preprocessing) {
  const [height, width] = photo.size, [outHeight, outWidth] = preprocessing.size;
  const [newHeight, newWidth] = findResized(photo.size, preprocessing);
  if (newHeight * newWidth > MAX_PIXELS) {
    throw new Error(`${photo.name} is too thin for this network: ${width} x ${height} pixels. Crop it first.`);
  }
  const top = roundHalfEven((newHeight - outHeight) / 2), left = roundHalfEven((newWidth - outWidth) / 2);
  const isGray = preprocessing.mean.length === 1, source = isGray ? { ...photo, pixels: makeGray(photo.pixels) } : photo;
  const box = [left, top, outWidth, outHeight];
  const pixels = resizeAsPillow(source.pixels, photo.size, [newHeight, newWidth], box, preprocessing.interpolation);
  const across = width / newWidth, down = height / newHeight;
  const onPhoto = [left * across, top * down, (left + outWidth) * across, (top + outHeight) * down];
  return { pixels, crop: { photo_size: photo.size, box: onPhoto, input_size: preprocessing.size } };
}

/** Return RGBA pixels in gray, as Pillow's convert("L"). */
function makeGray(pixels) {
  const gray = new Uint8ClampedArray(pixels.length);
  for (let i = 0; i < pixels.length; i += 4) {
    const luma = (pixels[i] * 19595 + pixels[i + 1] * 38470 + pixels[i + 2] * 7471 + 0x8000) >> 16;
    gray[i] = gray[i + 1] = gray[i + 2] = luma;
    gray[i + 3] = 255;
  }
  return gray;
}

/** Return the input (channels, height, width) of the network, of RGBA pixels of its input size. */
export function normalize(pixels, { size: [height, width], mean, std }) {
  const area = height * width, input = new Float32Array(mean.length * area);
  mean.forEach((center, channel) => {
    // One value for each of 256 gray levels, rounded to 32 bits after each step as NumPy does.
    const [shift, unit] = [Math.fround(center), Math.fround(std[channel])];
    const level = value => Math.fround(Math.fround(Math.fround(value / 255) - shift) / unit);
    const levels = Float32Array.from({ length: 256 }, (_, value) => level(value));
    for (let i = 0, at = channel * area; i < area; i++, at++) input[at] = levels[pixels[i * 4 + channel]];
  });
  return input;
}
