// What Streamlit calls with a pack of pictures; it shows nothing itself.

export default function ({ data }) {
  takePack(data);
}
