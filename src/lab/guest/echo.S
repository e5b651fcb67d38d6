# The lab's guest without an operating system: an option ROM in real mode (16 bits), which firmware runs as it starts, and which never
# returns. It answers frames: runs where KVM does not get through the start of Linux.
#
# A request is an Ethernet frame of type 88B5h (for local experiments) to the card's address: the type is followed by the request's number,
# 4 bytes. The answer goes to the sender: the request's number, then the number of the request that was answered before, which the guest
# remembers in its RAM. Numbers are little endian. So a client can tell that the guest did not go back to an older state. A number below the one
# it remembers is a late copy, and dropped, as TCP would; but 1 begins anew.
#
# The card is virtio-net with its legacy interface (virtio 0.9.5): registers in BAR 0 (2.2), queues of 256 descriptors (2.3), and a header
# of 10 bytes before each frame (appendix C). The guest sleeps (hlt) until the card or the timer interrupts, and writes into one of its
# pages each time, so that no checkpoint is empty.
#
# Memory, by segments: 1000h queue of received frames, 2000h of sent ones, 3000h buffers (received, from 8000h on sent), 5000h what the guest
# remembers, and its stack, 6000h to 7fffh the pages that are written in turn.
# Registers: bp the card's first port; ds, gs the two queues; fs what is remembered. Interrupts are on only during hlt, so that their
# handlers need not save anything.

        .intel_syntax noprefix
        .code16

        # Segments.
        .equ RX, 0x1000
        .equ TX, 0x2000
        .equ BUFFERS, 0x3000
        .equ STATE, 0x5000
        .equ PAGES, 0x6000
        # Offsets in STATE.
        .equ SEEN, 0                    # used ring's index up to which received frames were looked at
        .equ REMEMBERED, 4              # number of the request answered last
        .equ TURNS, 8
        # A queue of 256: descriptors of 16 bytes, then the available ring, on the next page the used ring. A ring: flags, index, entries.
        .equ QUEUE_SIZE, 256
        .equ AVAILABLE, 0x1000
        .equ USED, 0x2000
        # Buffers.
        .equ SLOTS, 16                  # of each queue
        .equ SLOT_SHIFT, 11             # 2048 bytes each
        .equ SENT, 0x8000
        # A frame behind its header.
        .equ HEADER, 10
        .equ TO, HEADER
        .equ FROM, HEADER + 6
        .equ TYPE, HEADER + 12
        .equ NUMBER, HEADER + 14
        .equ BEFORE, HEADER + 18
        .equ FRAME_BYTES, 60            # the shortest
        .equ ECHO_TYPE, 0xb588          # 88B5h, the high byte first
        # Registers of the card.
        .equ GUEST_FEATURES, 4
        .equ QUEUE_PAGE, 8
        .equ QUEUE_LENGTH, 12
        .equ QUEUE_SELECT, 14
        .equ QUEUE_NOTIFY, 16
        .equ STATUS, 18
        .equ INTERRUPTS, 19
        .equ ANY_LAYOUT, 1 << 27        # header and frame may lie in one descriptor
        # Of the machine.
        .equ PCI_ADDRESS, 0xcf8
        .equ PCI_DATA, 0xcfc
        .equ VIRTIO_NET, 0x10001af4
        .equ SERIAL, 0x3f8
        .equ TIMER_HZ, 1000

rom:    .byte 0x55, 0xaa, 0             # the size, in blocks of 512 bytes, and the checksum are filled in when it is built

start:  cli
        cld
        mov     ax, STATE
        mov     ss, ax
        mov     sp, 0xfff0
        mov     fs, ax
        mov     ax, RX
        mov     ds, ax
        mov     ax, TX
        mov     gs, ax
        # The PC may have been reset, with all this in memory.
        mov     bx, RX
clear:  mov     es, bx
        xor     di, di
        mov     cx, 0x8000
        xor     ax, ax
        rep stosw
        add     bx, 0x1000
        cmp     bx, PAGES + 0x2000
        jb      clear

# The card: on bus 0, function 0.
        mov     esi, 0x80000000
find:   mov     eax, esi
        call    pci_read
        cmp     eax, VIRTIO_NET
        je      found
        add     esi, 1 << 11
        cmp     esi, 0x80010000
        jb      find
        mov     si, offset no_card
        jmp     fail
found:  lea     eax, [esi + 4]          # command: I/O, memory, bus master
        call    pci_read
        or      al, 7
        out     dx, eax
        lea     eax, [esi + 0x10]       # BAR 0
        call    pci_read
        and     al, 0xfc
        mov     bp, ax

# 2.2.1: reset, acknowledge, driver, features, queues, driver ok.
        lea     dx, [bp + STATUS]
        xor     al, al
        out     dx, al
        mov     al, 1
        out     dx, al
        mov     al, 3
        out     dx, al
        mov     dx, bp
        in      eax, dx                 # what the device offers
        and     eax, ANY_LAYOUT
        lea     dx, [bp + GUEST_FEATURES]
        out     dx, eax
        xor     ax, ax
        mov     ecx, RX << 4 >> 12
        call    queue
        mov     ax, 1
        mov     ecx, TX << 4 >> 12
        call    queue

# Descriptors: address (8 bytes), length, flags, next. Buffers to be received into are all given to the device.
        xor     bx, bx
        mov     eax, BUFFERS << 4
        xor     cx, cx
fill:   mov     [bx], eax
        mov     dword ptr [bx + 8], 1 << SLOT_SHIFT
        mov     word ptr [bx + 12], 2   # the device writes it
        lea     edx, [eax + SENT]
        mov     gs:[bx], edx
        mov     dword ptr gs:[bx + 8], HEADER + FRAME_BYTES
        mov     di, cx
        shl     di, 1
        mov     [di + AVAILABLE + 4], cx
        add     bx, 16
        add     eax, 1 << SLOT_SHIFT
        inc     cx
        cmp     cx, SLOTS
        jb      fill
        mov     [AVAILABLE + 2], cx
        mov     word ptr gs:[AVAILABLE], 1      # no interrupt for what was sent
        call    interrupts
        lea     dx, [bp + STATUS]
        mov     al, 7
        out     dx, al
        lea     dx, [bp + QUEUE_NOTIFY]
        xor     ax, ax
        out     dx, ax
        mov     si, offset ready
        call    print

main:   mov     si, fs:[SEEN]
        cmp     si, [USED + 2]
        jne     take
        sti                             # takes effect after the next instruction: no interrupt is missed
        hlt
        cli
        # One page after the other is written.
        mov     ax, fs:[TURNS]
        inc     ax
        mov     fs:[TURNS], ax
        mov     bl, al
        and     bx, 31
        shl     bx, 8
        add     bx, PAGES
        mov     es, bx
        mov     es:[0], ax
        jmp     main

# A frame has come: its buffer's number is bx, its length cx.
take:   and     si, QUEUE_SIZE - 1
        shl     si, 3
        mov     bx, [si + USED + 4]
        mov     cx, [si + USED + 8]
        inc     word ptr fs:[SEEN]
        push    bx
        call    answer
        pop     bx
        mov     di, [AVAILABLE + 2]     # the device gets the buffer again
        and     di, QUEUE_SIZE - 1
        shl     di, 1
        mov     [di + AVAILABLE + 4], bx
        inc     word ptr [AVAILABLE + 2]
        test    byte ptr [USED], 1      # it need not be told
        jnz     main
        lea     dx, [bp + QUEUE_NOTIFY]
        xor     ax, ax
        out     dx, ax
        jmp     main

# What is no request, and what would not find a free slot, is dropped: the client asks again.
answer: cmp     cx, NUMBER + 4
        jb      drop
        mov     ax, BUFFERS
        mov     es, ax
        shl     bx, SLOT_SHIFT
        cmp     word ptr es:[bx + TYPE], ECHO_TYPE
        jne     drop
        mov     ecx, es:[bx + NUMBER]
        cmp     ecx, 1
        je      1f
        cmp     ecx, fs:[REMEMBERED]    # the network may deliver twice, and late
        jb      drop
1:      mov     ax, gs:[AVAILABLE + 2]
        mov     di, ax
        sub     ax, gs:[USED + 2]
        cmp     ax, SLOTS
        jae     drop
        mov     si, di
        and     si, QUEUE_SIZE - 1
        shl     si, 1
        and     di, SLOTS - 1
        mov     gs:[si + AVAILABLE + 4], di
        shl     di, SLOT_SHIFT
        add     di, SENT
        mov     eax, es:[bx + FROM]
        mov     es:[di + TO], eax
        mov     ax, es:[bx + FROM + 4]
        mov     es:[di + TO + 4], ax
        mov     eax, es:[bx + TO]
        mov     es:[di + FROM], eax
        mov     ax, es:[bx + TO + 4]
        mov     es:[di + FROM + 4], ax
        mov     word ptr es:[di + TYPE], ECHO_TYPE
        mov     es:[di + NUMBER], ecx
        mov     eax, fs:[REMEMBERED]
        mov     es:[di + BEFORE], eax
        mov     fs:[REMEMBERED], ecx
        inc     word ptr gs:[AVAILABLE + 2]
        lea     dx, [bp + QUEUE_NOTIFY]
        mov     ax, 1
        out     dx, ax
drop:   ret

# Queue ax at the page ecx.
queue:  lea     dx, [bp + QUEUE_SELECT]
        out     dx, ax
        lea     dx, [bp + QUEUE_LENGTH]
        in      ax, dx
        cmp     ax, QUEUE_SIZE
        jne     9f
        lea     dx, [bp + QUEUE_PAGE]
        mov     eax, ecx
        out     dx, eax
        ret
9:      mov     si, offset other_length
        jmp     fail

# Two interrupts of the PC's controllers (8259): the timer's, 0, and the card's, which its PCI interrupt line tells (firmware has set it).
interrupts:
        lea     eax, [esi + 0x3c]
        call    pci_read
        xor     bx, bx
        mov     es, bx
        mov     cl, al
        and     cx, 15
        mov     bx, cx                  # vectors: 08h to 0fh, 70h to 77h
        add     bx, 8
        cmp     cx, 8
        jb      1f
        add     bx, 0x70 - 16
1:      shl     bx, 2
        mov     word ptr es:[bx], offset card
        mov     es:[bx + 2], cs
        mov     word ptr es:[8 * 4], offset timer
        mov     es:[8 * 4 + 2], cs
        mov     ax, 1
        shl     ax, cl
        or      ax, 1 | 1 << 2          # 2: the second controller
        not     ax
        out     0x21, al
        mov     al, ah
        out     0xa1, al
        mov     al, 0x34                # the timer (8254): channel 0, a rate
        out     0x43, al
        mov     ax, 1193182 / TIMER_HZ
        out     0x40, al
        mov     al, ah
        out     0x40, al
        ret

card:   lea     dx, [bp + INTERRUPTS]   # reading it takes the interrupt back
        in      al, dx
        mov     al, 0x20
        out     0xa0, al
timer:  mov     al, 0x20                # end of interrupt
        out     0x20, al
        iret

# Reads the PCI register eax into eax; dx is the port at which it may be written.
pci_read:
        mov     dx, PCI_ADDRESS
        out     dx, eax
        mov     dx, PCI_DATA
        in      eax, dx
        ret

fail:   push    si
        mov     si, offset problem
        call    print
        pop     si
        call    print
1:      cli
        hlt
        jmp     1b

# The text at cs:si to the serial port.
print:  mov     dx, SERIAL
1:      mov     al, cs:[si]
        inc     si
        test    al, al
        jz      2f
        out     dx, al
        jmp     1b
2:      ret

ready:          .asciz "REMUS-GUEST-READY\n"
problem:        .asciz "REMUS-GUEST-PROBLEM "
no_card:        .asciz "no legacy virtio-net card on PCI bus 0\n"
other_length:   .asciz "the card's queues have not 256 entries\n"
