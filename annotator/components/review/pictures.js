// Pictures that came from the server, by the identity that they belong to, decoded ahead.
// A pack is: length of the header (4 bytes, big-endian), header (JSON), the files one by one.
//
// Two components share this: one takes packs, the other shows them; so it hangs on the window.

const PACKS_KEPT = 6;
const pictures = (globalThis.hqvoxPictures ??= {
  packs: new Map(), // name -> {images: [HTMLImageElement], reference: HTMLImageElement?, pieces: Set}
  onPiece: () => {},
  closeUp: null, // the one large picture: {header, image}
  onCloseUp: () => {},
});

function takePack(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const known = header.closeUp
    ? pictures.closeUp?.header.pack === header.pack
    : pictures.packs.get(header.pack)?.pieces.has(header.piece);
  if (known) return;
  let at = 4 + length;
  const images = header.sizes.map((size) => {
    const image = new Image();
    image.src = URL.createObjectURL(new Blob([bytes.subarray(at, at + size)], { type: "image/jpeg" }));
    image.draggable = false;
    image.alt = ""; // what is around it says what it is
    image.decode().then(
      () => (image.dataset.is = "decoded"),
      () => (image.dataset.is = "unreadable"),
    );
    at += size;
    return image;
  });
  if (header.closeUp) {
    if (pictures.closeUp) URL.revokeObjectURL(pictures.closeUp.image.src);
    pictures.closeUp = { header, image: images[0] };
    pictures.onCloseUp(pictures.closeUp);
    return;
  }
  const pack = packOf(header.pack) ?? { images: [], reference: null, pieces: new Set() };
  pack.pieces.add(header.piece);
  if (header.reference) pack.reference = images.pop();
  images.forEach((image, n) => (pack.images[header.first + n] = image));
  pictures.packs.set(header.pack, pack);
  pictures.onPiece(header.pack);
  while (pictures.packs.size > PACKS_KEPT) {
    const [oldest, given] = pictures.packs.entries().next().value;
    for (const image of [...given.images, given.reference]) if (image) URL.revokeObjectURL(image.src);
    pictures.packs.delete(oldest);
  }
}

// The pack, as far as it is here; makes it the last to be given up.
function packOf(name) {
  const pack = pictures.packs.get(name);
  if (pack) {
    pictures.packs.delete(name);
    pictures.packs.set(name, pack);
  }
  return pack;
}

function piecesHere() {
  return [...pictures.packs.values()].flatMap((pack) => [...pack.pieces]);
}
