// Makes the network's input from the data set's bytes: gathers and augments images, scales them, and converts u8 NCHW
// to f32 NHWC. Constants: SIDE (width and height), CHANNELS. A thread computes one pixel. Each thread draws the image's placement
// again, which costs less than reading it.

// The same as `reflected` in domain/augment.rs.
__device__ __forceinline__ int reflected(int at) {
    int period = SIDE > 1 ? 2 * SIDE - 2 : 1;
    at = (at % period + period) % period;
    at = at < period - at ? at : period - at;
    return at < SIDE - 1 ? at : SIDE - 1;
}

extern "C" __global__ void __launch_bounds__(256) gather(const u64 *members, const Step *now, float *input) {
    move_to_member(members, 1, now, input);
    const Step s = *now;
    u32 i = blockIdx.x * 256 + threadIdx.x;
    if (i >= s.count * (SIDE * SIDE)) return;
    u32 place = i / (SIDE * SIDE);
    int x = i % SIDE, y = i / SIDE % SIDE;
    bool flip = false, cut = false;
    int from_x = x, from_y = y;
    u32 image_index = place;
    if (s.views > 1) {
        // The same as Tta::views in domain/augment.rs: every second view is mirrored; the second pair is shifted by -1, the third by 1.
        u32 images = s.count / s.views, v = place / images;
        image_index = place % images;
        flip = v % 2 == 1;
        int shift = v / 2 == 0 ? 0 : v / 2 == 1 ? -1 : 1;
        if (shift) from_x = reflected(x + shift), from_y = reflected(y + shift);
    } else if (s.flip || s.crop || s.cutout) {
        // The same as Augmentation::placement in domain/augment.rs.
        Words w = random_block(s.seed, 4, s.number, 2 * place);
        flip = s.flip == 1 && w.at[0] >> 31 == 1;
        if (s.flip == 2) flip = random_block(s.seed, 7, 0, s.images[place]).at[0] >> 31 == s.epoch % 2;
        u32 shifts = 2 * s.crop + 1;
        from_x += (int)((u64)w.at[1] * shifts >> 32) - (int)s.crop;
        from_y += (int)((u64)w.at[2] * shifts >> 32) - (int)s.crop;
        if (s.reflect) {
            from_x = reflected(from_x);
            from_y = reflected(from_y);
        }
        if (s.cutout) {
            Words v = random_block(s.seed, 4, s.number, 2 * place + 1);
            int side = (int)s.cutout;
            int left = (int)((u64)v.at[0] * SIDE >> 32) - side / 2, top = (int)((u64)v.at[1] * SIDE >> 32) - side / 2;
            cut = x >= left && x < left + side && y >= top && y < top + side;
        }
    }
    bool shown = !cut && from_x >= 0 && from_x < SIDE && from_y >= 0 && from_y < SIDE;
    int column = flip ? SIDE - 1 - from_x : from_x;
    const u8 *image = s.pixels + (u64)s.images[image_index] * (CHANNELS * SIDE * SIDE) + from_y * SIDE + column;
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
        input[CHANNELS * i + c] = shown ? fmaf((float)image[c * SIDE * SIDE], s.pixel_scale[c], s.pixel_shift[c]) : 0.0f;
}
