# Finds what scripts/setup.sh installed. Nothing is downloaded here.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(tl-expected REQUIRED)
find_package(BZip2 REQUIRED)

file(GLOB OPTIQ_MLX_CMAKE "${OPTIQ_DEPS}/venv/lib/python3*/site-packages/mlx")
list(APPEND CMAKE_PREFIX_PATH ${OPTIQ_MLX_CMAKE} "${OPTIQ_DEPS}/highs")
find_package(MLX CONFIG REQUIRED)
find_package(highs CONFIG REQUIRED)

if(APPLE)
  find_library(OPTIQ_ACCELERATE Accelerate REQUIRED)
else()
  # Not by its CMake package: Debian's also demands OpenCL's headers, which nothing here includes.
  find_path(OPTIQ_DNNL_INCLUDE dnnl.hpp REQUIRED)
  find_library(OPTIQ_DNNL dnnl REQUIRED)
  add_library(optiq_dnnl INTERFACE IMPORTED GLOBAL)
  target_include_directories(optiq_dnnl INTERFACE "${OPTIQ_DNNL_INCLUDE}")
  target_link_libraries(optiq_dnnl INTERFACE "${OPTIQ_DNNL}")
  find_package(OpenMP REQUIRED COMPONENTS CXX)
endif()

add_library(optiq_bridge STATIC IMPORTED GLOBAL)
set_target_properties(optiq_bridge PROPERTIES IMPORTED_LOCATION "${OPTIQ_DEPS}/lib/liboptiq_bridge.a")
target_include_directories(optiq_bridge INTERFACE "${CMAKE_SOURCE_DIR}/rust/include")
target_link_libraries(optiq_bridge INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
if(APPLE)
  # The time zone of strftime_now.
  target_link_libraries(optiq_bridge INTERFACE "-framework CoreFoundation")
endif()
